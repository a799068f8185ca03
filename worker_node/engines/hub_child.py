"""The node's side of `worker_node.hub_download`: a child process whose lines become progress."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import msgspec

from common.errors import DownloadFailedError, from_problem
from common.gguf_catalogue import require_source
from common.logs import get_logger
from worker_node.engines.base import PullProgress

log = get_logger(__name__)
_LOG_LINES: Final = 20


class _Line(msgspec.Struct):
    status: str = ""
    completed: int | None = None
    total: int | None = None
    licence: str | None = None
    error: dict[str, object] | None = None


_decoder = msgspec.json.Decoder(_Line)


async def fetch_from_hub(model: str, folder: Path) -> AsyncGenerator[PullProgress, None]:
    """Fetch a model of the catalogue, or `hf:OWNER/REPO/FILE.gguf`. Closing the iterator ends the child.

    Raises `ModelNotFoundError`, the error that the child tells, or `DownloadFailedError` when it ends
    without a word.
    """
    require_source(model)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "worker_node.hub_download",
        "--folder",
        str(folder),
        "--",
        model,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    kept: deque[str] = deque(maxlen=_LOG_LINES)
    reader = asyncio.create_task(_keep_log(process.stderr, kept), name="hub download log")
    try:
        ended_well = False
        while line := await process.stdout.readline():
            told = _decoder.decode(line)
            if told.error is not None:
                raise from_problem(told.error)
            ended_well = told.status == "success"
            yield PullProgress(told.status, told.completed, told.total, told.licence)
        code = await process.wait()
        if not ended_well:
            await reader
            raise DownloadFailedError(
                f"the download ended with code {code}: {kept[-1] if kept else ''}", model=model
            )
    finally:
        if process.returncode is None:
            process.kill()  # what came is on the disk, and the next attempt goes on from there
        await process.wait()
        await reader


async def _keep_log(stream: asyncio.StreamReader, kept: deque[str]) -> None:
    while line := await stream.readline():
        kept.append(line.decode("utf-8", "replace").rstrip())
        log.debug("hub download", line=kept[-1])


def _environment() -> dict[str, str]:
    """Ours, with the packages of this process findable whatever the working directory is."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}
