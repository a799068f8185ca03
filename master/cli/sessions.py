"""`council sessions …`: what was asked and answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption

PATH = "/api/council/sessions"
SessionId = Annotated[str, typer.Argument(help="Id of the session.")]


def list_(
    q: Annotated[str | None, typer.Option("--q", help="Only those with this text.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on after a page.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the sessions, newest first."""
    from master.cli.locate import call_master
    from master.cli.printable import one_line
    from master.cli.terminal import print_json, print_table, tell

    found = call_master(url, key, lambda master: master.get(PATH, q=q, limit=limit, cursor=cursor))
    if as_json:
        print_json(found)
        return
    print_table(
        "Sessions",
        ["id", "state", "result", "asked", "question"],
        [
            [one["id"], one["state"], one.get("result"), str(one.get("created_at") or "")[:16],
             one_line(one.get("question") or "", 60)]
            for one in found["sessions"]
        ],
        empty='No sessions. council ask "Why is the sky blue?"',
    )  # fmt: skip
    if found.get("next_cursor"):
        tell(f"more: council sessions list --cursor {found['next_cursor']}")


def show(
    session_id: SessionId, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Show one session: answers, ballots, ranking, figures."""
    from master.cli.locate import call_master
    from master.cli.terminal import console, print_json

    session: dict[str, Any] = call_master(url, key, lambda master: master.get(_path(session_id)))
    if as_json:
        print_json(session)
        return
    from rich.text import Text

    from master.cli.printable import printable
    from master.cli.report import report

    out = console()
    out.print(Text(f"Question: {printable(session.get('question'))}", style="bold"))
    for agent in session.get("agents") or []:
        if agent.get("opinion"):
            out.print(
                Text(f"\n{printable(agent['agent_id'])} ({printable(agent.get('model'))})", style="bold")
            )
            out.print(Text(printable(agent["opinion"])))
    for part in report(session, markdown=out.is_terminal):
        out.print(part)


def export(
    session_id: SessionId,
    form: Annotated[str, typer.Option("--format", help="md or json.")] = "md",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; standard output by default.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Write a session as Markdown or JSON."""
    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master
    from master.cli.terminal import write_text

    if form not in ("md", "json"):
        raise UsageFailedError(f"no export as {form}; there are md and json")
    address = f"{_path(session_id)}/export"
    write_text(call_master(url, key, lambda master: master.text(address, format=form)), output)


def delete(
    session_id: SessionId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    with_archives: Annotated[
        bool, typer.Option("--with-archives", help="Delete the archives that hold it as well.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a session for good; one that runs is cancelled first."""
    import sys

    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    if not yes:
        if not sys.stdin.isatty():
            raise UsageFailedError("deleting needs --yes where nobody can be asked")
        typer.confirm(f"Delete session {session_id} for good?", abort=True)
    call_master(
        url, key, lambda master: master.delete(_path(session_id), with_archives=with_archives or None)
    )
    if as_json:
        print_json({"deleted": session_id})
    else:
        typer.echo(f"deleted {session_id}")


def _path(session_id: str) -> str:
    from urllib.parse import quote

    return f"{PATH}/{quote(session_id, safe='')}"
