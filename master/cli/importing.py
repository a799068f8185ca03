"""Sending files of conversations to the master as they are read, with a bar for people."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from master.cli.client import CONNECT_TIMEOUT_S, MasterClient
from master.cli.failure import CommandFailedError

_BLOCK_BYTES = 256 * 1024
_INSIDE = "conversations"  # ChatGPT's archive holds conversations.json, or conversations-000.json and on


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one member of an archive."""

    name: str
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    async def send(self, master: MasterClient, *, dry_run: bool) -> dict[str, Any]:
        """Stream it to the master; its report. The master reads as fast as it keeps."""
        import httpx

        with _bar(self.name, self.size) as advance, contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(self.open())
            except (OSError, zipfile.BadZipFile) as error:
                raise CommandFailedError(f"cannot read {self.name}: {error}") from error
            response = await master.request(
                "POST",
                "/api/conversation/import",
                params={"dry_run": dry_run},
                content=_blocks(file, self.size, advance),
                headers={"Content-Length": str(self.size), "Content-Type": "application/json"},
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            )
        found: dict[str, Any] = response.json()
        return found


def sources(path: Path) -> list[Source]:
    """What a path holds. Raises `CommandFailedError`."""
    try:
        size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            return [Source(str(path), size, lambda: path.open("rb"))]
        with zipfile.ZipFile(path) as archive:
            members = [
                one
                for one in sorted(archive.infolist(), key=lambda one: one.filename)
                if Path(one.filename).name.startswith(_INSIDE) and one.filename.endswith(".json")
            ]
    except (OSError, zipfile.BadZipFile) as error:
        raise CommandFailedError(f"cannot read {path}: {error}") from error
    if not members:
        raise CommandFailedError(f"{path} holds no conversations.json")
    return [
        Source(f"{path}/{one.filename}", one.file_size, lambda name=one.filename: _member(path, name))  # type: ignore[misc]
        for one in members
    ]


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        yield file


async def _blocks(file: IO[bytes], size: int, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Exactly `size` bytes: a file that grows meanwhile is read to where it ended."""
    left = size
    while left > 0 and (block := await asyncio.to_thread(file.read, min(_BLOCK_BYTES, left))):
        left -= len(block)
        yield block
        advance(len(block))
    if left > 0:
        raise CommandFailedError("the file became shorter while it was read; try again")


@contextmanager
def _bar(name: str, size: int) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from master.cli.printable import one_line

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as progress:
        task = progress.add_task(one_line(name, 40), total=size)
        yield lambda count: progress.advance(task, count)
