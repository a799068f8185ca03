"""`council jobs …`: what runs in the background, and why something does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from master.cli.options import JsonOption, KeyOption, UrlOption

if TYPE_CHECKING:
    from master.cli.client import MasterClient

PATH = "/api/background"
STATES = ("queued", "waiting", "running", "done", "failed", "dead", "cancelled")
ENDED = ("done", "failed", "dead", "cancelled")
WATCH_EVERY_S = 0.5
JobId = Annotated[str, typer.Argument(help="Id of the job.")]


def status(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show the queue, what runs, why nothing does, and what today has cost."""
    from master.cli.gate import use_rows
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, print_table

    found = call_master(url, key, lambda master: master.get(f"{PATH}/status"))
    if as_json:
        print_json(found)
        return
    typer.echo(found["waiting_for"] or "jobs may run")
    if not found.get("runs_here", True):
        typer.echo("jobs run in processes of `council jobs worker` alone (BG_IN_MASTER=false)")
    for name in found.get("unknown_types", ()):
        typer.echo(f"{name}: the master does not know this type of job; see COUNCIL_JOB_TYPES")
    for name, hold in found["holds"].items():
        typer.echo(f"{name} waits {hold['wait_s']:.0f} s: {hold['reason']}")
    today = found["today"]
    typer.echo(
        f"today: {today['calls']}{_of(today['max_calls'])} model calls, "
        f"{today['total_tokens']}{_of(today['max_tokens'])} tokens"
    )
    print_table(
        "Jobs",
        ["type", *STATES],
        [
            [name, *(found["by_type"].get(state, {}).get(name, 0) for state in STATES)]
            for name in sorted({name for of_type in found["by_type"].values() for name in of_type})
        ],
        empty="No jobs.",
    )
    print_table(
        "What engines and our own programs take",
        ["node", "part", "CPU", "memory"],
        [[node, *row] for node, use in found.get("use", {}).items() for row in use_rows(use)],
        empty="No figures yet.",
    )


def list_(
    state: Annotated[
        list[str] | None, typer.Option("--state", help=f"Only those: {', '.join(STATES)}. May be repeated.")
    ] = None,
    type_name: Annotated[str | None, typer.Option("--type", help="Only those of a type.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="At most so many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on after a page.")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs, newest first."""
    from master.cli.locate import call_master
    from master.cli.terminal import print_json, tell

    found = call_master(
        url,
        key,
        lambda master: master.get(f"{PATH}/jobs", state=state, type=type_name, limit=limit, cursor=cursor),
    )
    if as_json:
        print_json(found)
        return
    print_jobs("Jobs", found["jobs"], empty="No jobs.")
    if found.get("next_cursor"):
        tell(f"more: council jobs list --cursor {found['next_cursor']}")


def show(
    job_id: JobId,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one job: state, progress, result or cause, and what it cost. Exit code 1 when it failed."""
    from master.cli.locate import call_master

    async def follow(master: MasterClient) -> Any:
        return await (_watched(master, job_id) if watch else master.get(path_of(job_id)))

    report(call_master(url, key, follow), as_json, ends_badly=watch)


async def _watched(master: MasterClient, job_id: str) -> Any:
    """The job once it has ended; its progress goes to standard error."""
    import asyncio

    from master.cli.terminal import tell

    said = ""
    while (job := await master.get(path_of(job_id)))["state"] not in ENDED:
        line = f"{job['state']}{_progress(job)}{_why(job)}"
        if line != said:
            tell(line)
            said = line
        await asyncio.sleep(WATCH_EVERY_S)
    return job


def submit(
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="Type of the job; `council jobs status`.")],
    given: Annotated[
        str, typer.Argument(metavar="INPUT", help="Its input as JSON; - reads standard input.")
    ] = "{}",
    priority: Annotated[
        int | None, typer.Option("--priority", min=0, max=1000, help="The lower goes first.")
    ] = None,
    dedup_key: Annotated[
        str | None, typer.Option("--once", help="While a job with this word is pending, make no second one.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow it to its end.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job."""
    import json
    import sys

    from master.cli.failure import UsageFailedError
    from master.cli.locate import call_master

    try:
        parsed = json.loads(sys.stdin.read() if given == "-" else given)
    except ValueError as error:
        raise UsageFailedError(f"the input is no JSON: {error}") from error
    fields = {"type": type_name, "input": parsed, "priority": priority, "key": dedup_key}
    body = {name: value for name, value in fields.items() if value is not None}

    async def send(master: MasterClient) -> Any:
        job = await master.post(f"{PATH}/jobs", body)
        return await _watched(master, job["id"]) if wait else job

    report(call_master(url, key, send), as_json, ends_badly=wait)


def cancel(job_id: JobId, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Cancel a job that waits or runs."""
    _change(job_id, "cancel", url, key, as_json)


def retry(job_id: JobId, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Run a dead or cancelled job again; its finished steps count."""
    _change(job_id, "retry", url, key, as_json)


def pause(
    reason: Annotated[str, typer.Option("--reason", help="What others are told.")] = "",
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start no further job until `council jobs resume`; what runs goes on."""
    _switch("pause", {"reason": reason}, url, key, as_json)


def resume(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Let jobs start again."""
    _switch("resume", None, url, key, as_json)


def _switch(what: str, body: object, url: str | None, key: str | None, as_json: bool) -> None:
    from master.cli.locate import call_master
    from master.cli.terminal import print_json

    told = call_master(url, key, lambda master: master.post(f"{PATH}/{what}", body))
    if as_json:
        print_json(told)
    else:
        typer.echo("no job starts until `council jobs resume`" if told["paused"] else "jobs may start")


def _change(job_id: str, what: str, url: str | None, key: str | None, as_json: bool) -> None:
    from urllib.parse import quote

    from master.cli.locate import call_master

    place = f"{PATH}/jobs/{quote(job_id, safe='')}/{what}"
    report(call_master(url, key, lambda master: master.post(place)), as_json)


def path_of(job_id: str) -> str:
    from urllib.parse import quote

    return f"{PATH}/task/{quote(job_id, safe='')}"


def print_jobs(title: str, jobs: list[dict[str, Any]], *, empty: str) -> None:
    from master.cli.printable import one_line
    from master.cli.terminal import print_table

    print_table(
        title,
        ["id", "type", "priority", "state", "progress", "created", "why"],
        [
            [one["id"], one["type"], one["priority"], one["state"], _progress(one).strip() or "-",
             str(one["created_at"] or "")[:16], one_line((one.get("cause") or {}).get("detail") or "-", 60)]
            for one in jobs
        ],
        empty=empty,
    )  # fmt: skip


def report(job: dict[str, Any], as_json: bool, *, ends_badly: bool = False) -> None:
    """Print one job; with `ends_badly` the command fails where the job did."""
    from master.cli.printable import printable
    from master.cli.terminal import print_json

    if as_json:
        print_json(job)
    else:
        typer.echo(f"{job['id']} {job['type']}: {job['state']}{_progress(job)}{printable(_why(job))}")
        if job.get("usage") and job["usage"]["calls"]:
            usage = job["usage"]
            typer.echo(f"{usage['calls']} model calls, {usage['total_tokens']} tokens")
        if job.get("result") is not None:
            print_json(job["result"])
    if ends_badly and job["state"] != "done":
        raise typer.Exit(1)


def _progress(job: dict[str, Any]) -> str:
    done, total, note = (job["progress"][name] for name in ("done", "total", "note"))
    return (f" {done}/{total}" if total else "") + (f" {note}" if note else "")


def _why(job: dict[str, Any]) -> str:
    cause = job.get("cause")
    return f" ({cause['detail']})" if cause else ""


def _of(most: int | None) -> str:
    return f" of {most}" if most is not None else ""
