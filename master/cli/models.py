"""`council models …`: what the cluster can run, what is worth having, and fetching it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption

if TYPE_CHECKING:
    from master.cli.client import MasterClient

PATH = "/api/council/models"


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
        empty="No models. `council models recommended` names some; `council models pull MODEL` fetches one.",
    )


def recommended(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List models that suit a council on ordinary PCs."""
    from master.cli.locate import call_master
    from master.cli.terminal import human_size, print_json, print_table

    found = call_master(url, key, lambda master: master.get(f"{PATH}/recommended"))
    if as_json:
        print_json(found)
        return
    print_table(
        "Recommended models",
        ["name", "size", "role", "suits", "here"],
        [
            [one["name"], human_size(one.get("size")), one.get("role"), one.get("suits"),
             "yes" if one.get("installed") else "no"]
            for one in found["models"]
        ],
        empty="The master recommends none.",
    )  # fmt: skip


def pull(
    model: Annotated[str, typer.Argument(help="Name of the model, qwen2.5:0.5b.")],
    worker: Annotated[str | None, typer.Option("--worker", help="Node that fetches it.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model on a node. It goes on there when this command is stopped."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    last = call_master(url, key, lambda master: _pull(master, model, worker, quiet=as_json))
    if as_json:
        print_json({"model": model, **last})
    else:
        typer.echo(f"{model} is there")


async def _pull(master: MasterClient, model: str, worker: str | None, *, quiet: bool) -> dict[str, Any]:
    import json

    from common.errors import from_problem
    from master.cli.failure import CommandFailedError, from_council_error

    body = {"model": model, **({"worker": worker} if worker else {})}
    progress = _Progress(quiet=quiet)
    last: dict[str, Any] = {}
    async for line in master.lines("POST", f"{PATH}/pull", body):
        try:
            last = json.loads(line)
        except ValueError as error:
            raise CommandFailedError("the master sent progress that is not JSON") from error
        problem = last.get("error")
        if problem:
            progress.end()
            if isinstance(problem, dict):
                raise from_council_error(from_problem(problem))
            raise CommandFailedError(str(problem))
        progress.show(last)
    progress.end()
    return last


class _Progress:
    """One line that is rewritten on a terminal, a line per change of status elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        import sys

        self._terminal = sys.stderr.isatty()
        self._quiet = quiet
        self._status: str | None = None

    def show(self, line: dict[str, Any]) -> None:
        from master.cli.printable import one_line
        from master.cli.terminal import human_size, tell

        if self._quiet:
            return
        status = one_line(line.get("status") or "", 60)
        done, total = line.get("completed"), line.get("total")
        if self._terminal:
            amount = f" {human_size(done) or 0} of {human_size(total)}" if total else ""
            typer.echo(f"\r\x1b[K{status}{amount}", nl=False, err=True)
        elif status != self._status:
            tell(status)
        self._status = status

    def end(self) -> None:
        if self._terminal and self._status is not None and not self._quiet:
            typer.echo(err=True)
