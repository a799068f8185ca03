"""`council worker …`: the nodes of the cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption

PATH = "/api/cluster/workers"
NodeName = Annotated[str, typer.Argument(help="Name of the node.")]


MacOption = Annotated[
    str | None, typer.Option("--mac", help="Address of its network card, AA:BB:CC:DD:EE:FF, to wake it.")
]


def add(
    node_url: Annotated[str, typer.Argument(metavar="URL", help="Address, https://192.168.1.20:8001.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name; made from the address by default.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Key of the node (its COUNCIL_NODE_KEY).")] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", help="Of its certificate; `council node start` printed it there."),
    ] = None,
    mac: MacOption = None,
    url: UrlOption = None,
    master_key: Annotated[
        str | None, typer.Option("--master-key", envvar="COUNCIL_KEY", help="Key of the master.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a node to the cluster. It has to run and answer."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    given = {"url": node_url, "name": name, "key": key, "fingerprint": fingerprint, "mac": mac}
    body = {field: value for field, value in given.items() if value is not None}
    added = call_master(url, master_key, lambda master: master.post(PATH, body))
    if as_json:
        print_json(added)
    else:
        typer.echo(f"added {added['name']} ({added['url']}): {added['state']}, {_models(added)}")


def list_(
    discover: Annotated[
        bool, typer.Option("--discover", help="Show nodes on this LAN that could be added.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the nodes, their state, engines and models."""
    from master.cli.locate import call_master
    from master.cli.printable import printable
    from master.cli.terminal import print_json, print_table
    from master.cli.worker_screen import engines

    found = call_master(url, key, lambda master: master.get(PATH))
    if discover:
        from master.cli import candidates

        candidates.show(found["workers"], as_json)
        return
    if as_json:
        print_json(found)
        return
    starting = found.get("starting") or []  # an older master does not tell
    print_table(
        "Nodes",
        ["name", "state", "address", "engines", "slots", "models"],
        [
            *([one["name"], one["state"], one["url"], engines(one), one.get("slots"), _models(one)]
              for one in found["workers"]),
            *([name, "starting", None, None, 0, None] for name in starting),
        ],
        empty="No nodes. `council worker add URL` adds one; `council up` starts one here.",
    )  # fmt: skip
    for one in found["workers"]:
        if one.get("reason"):  # sentences, which a column of a table would tear apart
            typer.echo(printable(f"{one['name']}: {one['reason']}"))
    for name in starting:
        typer.echo(printable(f"{name}: being started on the master's PC"))


def show(name: NodeName, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show one node: its state, machine, load, errors, and its models with their speeds."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json
    from master.cli.worker_screen import print_worker

    one = call_master(url, key, lambda master: master.get(f"{PATH}/{_segment(name)}"))
    if as_json:
        print_json(one)
    else:
        print_worker(one)


def remove(name: NodeName, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Forget a node, and tell it; calls that run there are restarted elsewhere."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    call_master(url, key, lambda master: master.delete(f"{PATH}/{_segment(name)}"))
    if as_json:
        print_json({"removed": name})
    else:
        typer.echo(f"removed {name}")


def _set_draining(name: str, verb: str, url: str | None, key: str | None, as_json: bool) -> None:
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    one = call_master(url, key, lambda master: master.post(f"{PATH}/{_segment(name)}/{verb}"))
    if as_json:
        print_json(one)
    else:
        typer.echo(f"{one['name']}: {one['state']}")


def drain(name: NodeName, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Send the node nothing new; what runs there ends."""
    _set_draining(name, "drain", url, key, as_json)


def resume(name: NodeName, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Use a drained node again."""
    _set_draining(name, "resume", url, key, as_json)


def wake(
    name: NodeName,
    mac: MacOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wake a sleeping PC by Wake-on-LAN, which its firmware has to allow."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    body = {} if mac is None else {"mac": mac}
    sent = call_master(url, key, lambda master: master.post(f"{PATH}/{_segment(name)}/wake", body))
    if as_json:
        print_json(sent)
    else:
        typer.echo(f"sent {sent['name']} ({sent['mac']}) a wake-up packet; see `council worker list` soon")


def _segment(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _models(node: dict[str, Any]) -> str:
    count = len(node.get("models") or [])
    return f"{count} model{'' if count == 1 else 's'}"
