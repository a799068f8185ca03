"""Fetching models from the command line: through a master, or here where none runs; progress as it comes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import typer

from common.errors import DownloadFailedError, from_problem
from master.cli.failure import CommandFailedError, describe_error, from_council_error

PULL_PATH = "/api/council/models/pull"
LOCAL = "here"
_KEPT_LINES: Final = 3  # of what a download that failed said on its standard error


def fetch(
    body: dict[str, Any], *, url: str | None, key: str | None, quiet: bool, here_if_alone: bool
) -> dict[str, dict[str, Any]]:
    """Let the cluster fetch a model; the last line of each node by its name: `success`, or an `error`.

    `here_if_alone`: without a master the file is fetched into this machine's own models folder.
    """
    from master.cli.interrupts import run

    return run(_fetch(body, url, key, _Progress(quiet=quiet), here_if_alone))


async def _fetch(
    body: dict[str, Any], url: str | None, key: str | None, progress: _Progress, here_if_alone: bool
) -> dict[str, dict[str, Any]]:
    from master.cli.client import MasterClient
    from master.cli.locate import locate, require

    found = await locate(url, key) if here_if_alone else await require(url, key)
    if found is None:
        if body.get("worker") or body.get("all"):
            await require(url, key)  # says that no master runs, and how to start one
        async with aclosing(_fetch_here(str(body["model"]))) as lines:
            with _told_on_stop("what came is kept, and the same command goes on from there"):
                return await _follow(lines, progress)
    async with MasterClient(found.url, found.key, verify=found.verify) as master:
        with _told_on_stop("the fetch goes on there; the same command shows how far it is"):
            return await _follow(master.lines("POST", PULL_PATH, body), progress)


@contextmanager
def _told_on_stop(words: str) -> Iterator[None]:
    """Ctrl-C arrives as the cancellation of the loop's main task."""
    try:
        yield
    except asyncio.CancelledError:
        from master.cli.terminal import tell

        tell(words)
        raise


async def _fetch_here(model: str) -> AsyncGenerator[str, None]:
    """Run the node's own program for it; what came is kept when this command is stopped.

    The last line tells success or an error, also where the program broke without a word.
    """
    from common.node_settings import NodeSettings
    from master.cli.programs import program_command, program_environment

    folder = NodeSettings.load("node").models_path
    process = await asyncio.create_subprocess_exec(
        *program_command("worker_node.hub_download", "--folder", str(folder), "--", model),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=program_environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said = asyncio.create_task(_last_lines(process.stderr))
    ended = False
    try:
        while line := await process.stdout.readline():
            ended = _is_end(_told(line))
            yield line.decode()
        if not ended:
            code, why = await process.wait(), await said
            broke = DownloadFailedError(f"the download ended with exit code {code}: {why}")
            yield json.dumps({"error": broke.to_problem()})
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await said


async def _last_lines(stream: asyncio.StreamReader) -> str:
    kept: deque[str] = deque(maxlen=_KEPT_LINES)
    while line := await stream.readline():
        kept.append(line.decode("utf-8", "replace").strip())
    return " ".join(kept)


def _told(line: str | bytes) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise CommandFailedError("progress came that is not JSON") from error
    return told


def _is_end(told: dict[str, Any]) -> bool:
    """Whether it is the last that is said of a fetch: success, or why not."""
    return told.get("status") == "success" or bool(told.get("error"))


async def _follow(lines: AsyncIterator[str], progress: _Progress) -> dict[str, dict[str, Any]]:
    last: dict[str, dict[str, Any]] = {}
    try:
        async for line in lines:
            told = _told(line)
            worker = str(told.pop("worker", LOCAL))
            # The licence is told once, at the beginning.
            licence = told.get("licence") or last.get(worker, {}).get("licence")
            last[worker] = {**told, "licence": licence} if licence else told
            progress.show(worker, told)
    finally:
        progress.end()
    if not last:
        raise CommandFailedError("nothing was told of the fetch; `council models list` shows what is there")
    for told in last.values():
        if not _is_end(told):
            told["error"] = "its progress ended before the model was there"
    return last


def require_everywhere(last: dict[str, dict[str, Any]]) -> None:
    """Raise `CommandFailedError` when some node does not have the model, by the last that each told."""
    failed = {worker: told["error"] for worker, told in last.items() if told.get("error")}
    if len(last) == 1 and failed:
        ((worker, problem),) = failed.items()
        if isinstance(problem, dict):
            raise from_council_error(from_problem(problem, node=None if worker == LOCAL else worker))
        raise CommandFailedError(str(problem))
    if failed:
        told_all = "; ".join(f"{worker}: {describe_error(problem)}" for worker, problem in failed.items())
        raise CommandFailedError(f"{len(failed)} of {len(last)} nodes do not have it: {told_all}")


class _Progress:
    """One line that is rewritten on a terminal, a line per change of status elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._terminal = sys.stderr.isatty()
        self._quiet = quiet
        self._shown: dict[str, str] = {}

    def show(self, worker: str, line: dict[str, Any]) -> None:
        from master.cli.printable import one_line
        from master.cli.terminal import human_size, tell

        if self._quiet or line.get("error"):
            return
        status = one_line(line.get("status") or "", 160)
        where = "" if worker == LOCAL else f"{worker}: "
        if not self._terminal:
            if self._shown.get(worker) != status:
                tell(f"{where}{status}")
            self._shown[worker] = status
            return
        done, total = line.get("completed"), line.get("total")
        amount = f" {human_size(done) or 0} of {human_size(total)}" if done is not None and total else ""
        if line.get("licence"):  # stays on the screen
            typer.echo(f"\r\x1b[K{where}{status}", err=True)
            return
        self._shown[worker] = f"{where}{status}{amount}"
        typer.echo(f"\r\x1b[K{one_line(' · '.join(self._shown.values()), _columns())}", nl=False, err=True)

    def end(self) -> None:
        if self._terminal and self._shown and not self._quiet:
            typer.echo(err=True)


def _columns() -> int:
    import shutil

    return max(20, shutil.get_terminal_size().columns - 1)
