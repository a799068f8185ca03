"""`council keys …`: keys of people and programs, for whoever administers the master."""

from __future__ import annotations

from typing import Annotated

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption

PATH = "/api/keys"
KeyName = Annotated[str, typer.Argument(help="Name of the key: who or what uses it.")]


def create(
    name: KeyName,
    admin: Annotated[
        bool, typer.Option("--admin", help="May also change nodes, models, keys and tokens.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it. It is shown this once: the master keeps only its digest."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, tell

    body = {"name": name, "role": "admin" if admin else "person"}
    made = call_master(url, key, lambda master: master.post(PATH, body))
    if as_json:
        print_json(made)
        return
    typer.echo(made["key"])
    tell(f"That is the key of {made['name']} ({made['role']}). Keep it: it is not shown again.")


def list_(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the keys by name; never the keys themselves."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, print_table

    found = call_master(url, key, lambda master: master.get(PATH))
    if as_json:
        print_json(found)
        return
    print_table(
        "Keys",
        ["name", "role", "made (UTC)"],
        [[one["name"], one["role"], one["created_at"][:16].replace("T", " ")] for one in found["keys"]],
        empty="No keys but COUNCIL_KEY. `council keys create NAME` makes one.",
    )


def revoke(name: KeyName, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Make a key worthless at once, also in browsers that are logged in with it."""
    from urllib.parse import quote

    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    call_master(url, key, lambda master: master.delete(f"{PATH}/{quote(name, safe='')}"))
    if as_json:
        print_json({"revoked": name})
    else:
        typer.echo(f"revoked {name}")
