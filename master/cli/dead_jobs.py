"""`council jobs dead|replay|dismiss`: jobs that failed for good, with their cause."""

from __future__ import annotations

from typing import Annotated

import typer

from master.cli.jobs import PATH, print_jobs
from master.cli.options import JsonOption, KeyOption, UrlOption


def dead(
    type_name: Annotated[str | None, typer.Option("--type", help="Only those of a type.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="At most so many.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the dead letters: jobs that failed for good, and why."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    found = call_master(url, key, lambda master: master.get(f"{PATH}/dead", type=type_name, limit=limit))
    if as_json:
        print_json(found)
    else:
        print_jobs("Dead letters", found["jobs"], empty="No dead letters.")


def replay(
    type_name: Annotated[str | None, typer.Option("--type", help="Only those of a type.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run all dead letters again."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    body = {"type": type_name} if type_name else None
    told = call_master(url, key, lambda master: master.post(f"{PATH}/dead/replay", body))
    if as_json:
        print_json(told)
    else:
        typer.echo(f"{told['replayed']} jobs run again")


def dismiss(
    job_id: Annotated[str | None, typer.Argument(help="Id of the job; with --all none.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take dead letters off the list. `council jobs retry` still runs them for BG_RETENTION_DAYS."""
    from urllib.parse import quote

    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    if (job_id is None) != every:
        raise UsageFailedError("name one dead letter, or give --all")
    place = f"{PATH}/dead" if job_id is None else f"{PATH}/dead/{quote(job_id, safe='')}"
    call_master(url, key, lambda master: master.delete(place))
    if as_json:
        print_json({"dismissed": job_id or "all"})
    else:
        typer.echo(f"dismissed {job_id or 'all'}")
