"""`council models …`: what the cluster can run, what is worth having, and fetching it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption

PATH = "/api/council/models"
ModelArgument = Annotated[str, typer.Argument(help="Name of the model, qwen2.5:0.5b.")]
AllOption = Annotated[bool, typer.Option("--all", help="On every node of the cluster.")]


def list_(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the models of the cluster and the nodes that have them."""
    from master.cli.locate import call_master
    from master.cli.terminal import human_size, print_json, print_table

    found = call_master(url, key, lambda master: master.get(PATH))
    if as_json:
        print_json(found)
        return
    print_table(
        "Models",
        ["name", "size", "loaded", "slots", "nodes", "kind"],
        [
            [
                one["name"],
                human_size(one.get("size")),
                "yes" if one.get("resident") else "no",
                one.get("slots"),
                ", ".join(one.get("nodes") or []),
                "practice" if one.get("practice") else ", ".join(one.get("capabilities") or []),
            ]
            for one in found["models"]
        ],
        empty="No models. `council models recommended` names some; `council models get MODEL` fetches one.",
    )


def recommended(
    use: Annotated[
        str, typer.Option("--for", help="`council`, or `background` for work that must not slow the chat.")
    ] = "council",
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List models that suit a council on ordinary PCs, or background work."""
    from master.cli.failure import NoMasterError
    from master.cli.locate import call_master
    from master.cli.terminal import human_size, print_json, print_table
    from master.recommended import recommended as known

    try:
        found = call_master(url, key, lambda master: master.get(f"{PATH}/recommended", **{"for": use}))
    except NoMasterError:
        if url is not None or use not in ("council", "background"):
            raise
        found = known("background" if use == "background" else "council", None)
    if as_json:
        print_json(found)
        return
    memory = use == "background"
    print_table(
        "Models for background work" if memory else "Recommended models",
        ["name", "size", *(["memory"] if memory else []), "role", "suits", "licence", "here"],
        [
            [one["name"], human_size(one.get("size")), *([human_size(one.get("ram"))] if memory else []),
             one.get("role"), one.get("suits"), one.get("licence"),
             {True: "yes", False: "no"}.get(one.get("installed"), "-")]
            for one in found["models"]
        ],
        empty="The master recommends none.",
    )  # fmt: skip


def pull(
    model: ModelArgument,
    worker: Annotated[str | None, typer.Option("--worker", help="Node that fetches it.")] = None,
    everywhere: AllOption = False,
    background: Annotated[
        bool, typer.Option("--background", help="By the background engine of the node.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model on a node, by its engine. It goes on there when this command is stopped."""
    wanted = {"model": model, "worker": worker, "all": everywhere, "background": background}
    _fetch(wanted, url, key, as_json=as_json, here_if_alone=False)


def get(
    model: Annotated[
        str, typer.Argument(help="Name in the catalogue, qwen2.5:0.5b, or hf:OWNER/REPO/FILE.gguf.")
    ],
    worker: Annotated[str | None, typer.Option("--to", help="Node that gets the file.")] = None,
    everywhere: AllOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a GGUF file for the embedded engine, from the model hub. A stopped download goes on later.

    Without a running master the file goes into the models folder of this machine.
    """
    _fetch(
        {"model": model, "worker": worker, "all": everywhere, "embedded": True},
        url, key, as_json=as_json, here_if_alone=True,
    )  # fmt: skip


def _fetch(
    wanted: dict[str, Any], url: str | None, key: str | None, *, as_json: bool, here_if_alone: bool
) -> None:
    from master.cli.failure import UsageFailedError
    from master.cli.fetching import LOCAL, fetch, require_everywhere
    from master.cli.terminal import print_json

    if wanted["worker"] and wanted["all"]:
        raise UsageFailedError("name one node or ask for --all, not both")
    body = {name: value for name, value in wanted.items() if value}
    last = fetch(body, url=url, key=key, quiet=as_json, here_if_alone=here_if_alone)
    model = wanted["model"]
    if as_json:
        told: dict[str, Any] = next(iter(last.values()), {})
        print_json({"model": model, "workers": last} if wanted["all"] else {"model": model, **told})
    require_everywhere(last)
    if not as_json:
        where = ", ".join(name for name in last if name != LOCAL)
        typer.echo(f"{model} is there{f' ({where})' if where else ''}")
