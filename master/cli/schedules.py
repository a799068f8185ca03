"""`council jobs schedule|schedules|unschedule`: jobs that are submitted again and again."""

from __future__ import annotations

from typing import Annotated

import typer

from master.cli.jobs import PATH
from master.cli.options import JsonOption, KeyOption, UrlOption

ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


def add(
    name: ScheduleName,
    cron: Annotated[
        str, typer.Argument(metavar="CRON", help='Minute, hour, day, month, weekday: "30 3 * * *".')
    ],
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="Type of the job.")],
    given: Annotated[str, typer.Argument(metavar="INPUT", help="Its input as JSON.")] = "{}",
    priority: Annotated[
        int | None, typer.Option("--priority", min=0, max=1000, help="The lower goes first.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job again and again, at times on the clock of the master's machine."""
    import json

    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    try:
        parsed = json.loads(given)
    except ValueError as error:
        raise UsageFailedError(f"the input is no JSON: {error}") from error
    fields = {"name": name, "cron": cron, "type": type_name, "input": parsed, "priority": priority}
    body = {field: value for field, value in fields.items() if value is not None}
    made = call_master(url, key, lambda master: master.post(f"{PATH}/schedules", body))
    if as_json:
        print_json(made)
    else:
        typer.echo(f"{made['name']}: {made['type']}, next at {made['next_at'][:16]} UTC")


def list_(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the schedules."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, print_table

    found = call_master(url, key, lambda master: master.get(f"{PATH}/schedules"))
    if as_json:
        print_json(found)
        return
    print_table(
        "Schedules (UTC)",
        ["name", "type", "cron", "next", "last"],
        [
            [one["name"], one["type"], one["cron"], one["next_at"][:16], (one["last_at"] or "-")[:16]]
            for one in found["schedules"]
        ],
        empty="No schedules.",
    )


def remove(
    name: ScheduleName, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Remove a schedule; jobs that it submitted stay."""
    from urllib.parse import quote

    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    call_master(url, key, lambda master: master.delete(f"{PATH}/schedules/{quote(name, safe='')}"))
    if as_json:
        print_json({"removed": name})
    else:
        typer.echo(f"removed {name}")
