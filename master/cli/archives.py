"""`council archive …`: keep conversations, find them again, bring those of other programs in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption

if TYPE_CHECKING:
    from master.cli.client import MasterClient

LIST = "/api/structured_archives"
ArchiveId = Annotated[str, typer.Argument(help="Id of the archive.")]


def add(
    session: Annotated[str | None, typer.Option("--session", help="Archive this session.")] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", help="Archive this conversation, all its sessions.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help='Archive a JSON file: {"messages": [{"role", "content"}]}; - reads input.'
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Its title; its first question else.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Archive a conversation; the one that was used last where none is named."""
    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master
    from master.cli.terminal import console, print_json, tell

    if sum(one is not None for one in (session, conversation, file)) > 1:
        raise UsageFailedError("name one of --session, --conversation and --file")
    body: dict[str, Any] = {"session_id": session, "conversation_id": conversation, "title": title}
    if file is not None:
        body |= _read_conversation(file)
    body = {name: value for name, value in body.items() if value is not None}
    found = call_master(
        url, key, lambda master: master.post("/api/conversation/archive/background", body or None)
    )
    if as_json:
        print_json(found)
        return
    from rich.text import Text

    from master.cli.printable import printable

    console().print(Text(printable(found["quick_summary"])))
    known = "" if found["created"] else " (these words were archived before)"
    tell(f"archive {found['archive_id']}: {found['status']}{known}")


def list_(
    q: Annotated[str | None, typer.Option("--q", help="Only those with these words.")] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="stored, queued, running, structured or failed.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="session, conversation, messages, jsonl, open_webui or chatgpt."),
    ] = None,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Also those that a later one replaced.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on after a page.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the archives, newest first."""
    params = {"q": q, "status": status, "source": source, "superseded": superseded or None}
    _list(url, key, as_json, {**params, "limit": limit, "cursor": cursor})


def search(
    words: Annotated[list[str], typer.Argument(help="Words that must all occur, in any alphabet.")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="At most so many.")] = 20,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find archives by what was said in them."""
    _list(url, key, as_json, {"q": " ".join(words), "limit": limit})


def _list(url: str | None, key: str | None, as_json: bool, params: dict[str, Any]) -> None:
    from master.cli.locate import call_master
    from master.cli.printable import one_line
    from master.cli.terminal import print_json, print_table, tell

    found = call_master(url, key, lambda master: master.get(LIST, **params))
    if as_json:
        print_json(found)
        return
    print_table(
        "Archives",
        ["id", "status", "source", "messages", "items", "archived", "title"],
        [
            [one["id"], one["status"], one["source"], one["messages_count"], one["items_count"],
             str(one["created_at"])[:16], one_line(one["title"], 50)]
            for one in found["archives"]
        ],
        empty="No archives. `council archive add` keeps the last conversation.",
    )  # fmt: skip
    if found.get("next_cursor"):
        tell(f"more: council archive list --cursor {found['next_cursor']}")


def stats(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Count the archives by status and source, with what they hold and cost."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, print_table

    found = call_master(url, key, lambda master: master.get(f"{LIST}/statistics"))
    if as_json:
        print_json(found)
        return
    flat: list[list[object]] = []
    for name, value in found.items():
        for part, count in value.items() if isinstance(value, dict) else [("", value)]:
            flat.append([f"{name}: {part}" if part else name, count])
    print_table("Archives", ["what", "how many"], flat, empty="No archives.")


def show(
    archive_id: ArchiveId,
    messages: Annotated[bool, typer.Option("--messages", help="The whole conversation as well.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one archive: summary, facts, decisions, people, dates, open questions, related archives."""
    from master.cli.locate import call_master
    from master.cli.terminal import console, print_json, tell

    found = call_master(url, key, lambda master: master.get(_path(archive_id), messages=messages or None))
    if as_json:
        print_json(found)
        return
    from rich.markdown import Markdown
    from rich.text import Text

    from master.cli.printable import one_line, printable

    out = console()
    text = printable(found["markdown"])
    out.print(Markdown(text.split("\n---\n", 1)[-1]) if out.is_terminal else Text(text))
    if found["status"] == "failed":
        tell(f"try: council archive retry {archive_id}")
    elif found["status"] == "structured" and found["practice"] and not found["items_count"]:
        tell(f"with another model: council archive retry {archive_id}")
    for one in found.get("messages") or ():
        out.print(Text(f"\n{one['role']}", style="bold"))
        out.print(Text(printable(one["content"])))
    if found["related"]:
        out.print(Text("\nRelated", style="bold"))
    for one in found["related"]:
        terms = ", ".join(one["shared_terms"])
        out.print(Text(printable(f"  {one['id']}  {one_line(one['title'], 60)}  ({terms})")))


def retry(
    archive_ids: Annotated[list[str] | None, typer.Argument(help="Ids of archives.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    practice: Annotated[
        bool, typer.Option("--practice", help="All that practice models took part in.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Structure archives (anew), with the background model of now. What they hold stays until then."""
    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, tell

    if not archive_ids and not failed and not practice:
        raise UsageFailedError("name archives, or --failed, or --practice")
    wanted = dict.fromkeys(archive_ids or ())
    queued: list[dict[str, Any]] = []

    async def ask(master: MasterClient) -> None:
        filters = [{"status": "failed"}] * failed + [{"status": "structured", "practice": True}] * practice
        for params in filters:
            cursor = None
            while True:
                page = await master.get(LIST, **params, superseded=True, limit=200, cursor=cursor)
                wanted.update(dict.fromkeys(one["id"] for one in page["archives"]))
                if (cursor := page["next_cursor"]) is None:
                    break
        for one in wanted:
            queued.append(await master.post(f"{_path(one)}/retry"))

    call_master(url, key, ask)
    if as_json:
        print_json({"archives": queued})
    else:
        tell(f"{len(queued)} {'archive' if len(queued) == 1 else 'archives'} queued")


def export(
    archive_id: ArchiveId,
    form: Annotated[str, typer.Option("--format", help="md or json.")] = "md",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; standard output by default.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Write an archive with its whole conversation as Markdown or JSON."""
    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master
    from master.cli.terminal import write_text

    if form not in ("md", "json"):
        raise UsageFailedError(f"no export as {form}; there are md and json")
    address = f"{_path(archive_id)}/export"
    write_text(call_master(url, key, lambda master: master.text(address, format=form)), output)


def delete(
    archive_id: ArchiveId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete an archive for good; its job is cancelled. `council archive export` first, to keep a copy."""
    import sys

    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    if not yes:
        if not sys.stdin.isatty():
            raise UsageFailedError("deleting needs --yes where nobody can be asked")
        typer.confirm(f"Delete archive {archive_id} for good?", abort=True)
    call_master(url, key, lambda master: master.delete(_path(archive_id)))
    if as_json:
        print_json({"deleted": archive_id})
    else:
        typer.echo(f"deleted {archive_id}")


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(help="JSON lines, an export of Open WebUI, or of ChatGPT (its .zip as it is)."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and count, keep nothing.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Archive the conversations of files. Doing it again brings in only what is new."""
    from master.cli.failure import CommandFailedError
    from master.cli.importing import sources
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, tell

    reports: list[dict[str, Any]] = []

    async def send_all(master: MasterClient) -> None:
        for file in files:
            for source in sources(file):
                report = await source.send(master, dry_run=dry_run)
                reports.append({"file": source.name, **report})
                if not as_json:
                    _tell_report(source.name, report)

    call_master(url, key, send_all)
    if as_json:
        print_json({"files": reports})
    if not any(report["imported"] or report["known"] for report in reports):
        raise CommandFailedError("no conversation was found", hint="docs/guides/archives.md shows the forms")
    if not as_json and not dry_run:
        tell("`council archive list` shows them; they are structured while nobody needs the computers")


def _tell_report(name: str, report: dict[str, Any]) -> None:
    from master.cli.terminal import tell

    done = "would be imported" if report["dry_run"] else "imported"
    typer.echo(
        f"{name}: {report['imported']} {done}, {report['known']} known already, {report['skipped']} skipped "
        f"({report['messages']} messages)"
    )
    for one in report["problems"][:10]:
        tell(f"  record {one['record']}, line {one['line']}: {one['reason']}")
    if report["skipped"] > 10:
        tell(f"  … and {report['skipped'] - 10} more; --json lists them")


def _read_conversation(file: Path) -> dict[str, Any]:
    import json
    import sys

    from master.cli.failure import CommandFailedError, UsageFailedError

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
        found = json.loads(text)
    except OSError as error:
        raise CommandFailedError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageFailedError(
            f"{file} is not JSON ({error})", hint="`council archive import` reads JSON lines and exports"
        ) from error
    if isinstance(found, list):
        found = {"messages": found}
    if not isinstance(found, dict) or not isinstance(found.get("messages"), list):
        raise UsageFailedError(
            f'{file} holds no conversation such as {{"messages": [{{"role": "user", "content": "…"}}]}}',
            hint="`council archive import` reads JSON lines and exports",
        )
    kept = {"messages": found["messages"]}
    return {**kept, "title": found["title"]} if isinstance(found.get("title"), str) else kept


def _path(archive_id: str) -> str:
    from urllib.parse import quote

    return f"/api/structured_archive/{quote(archive_id, safe='')}"
