"""Runs `child.py` and reads what it says."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.processes import ROOT, clean_environment

_WITHIN_S = 60.0


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Its next line; empty when it has ended."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_WITHIN_S):
            return (await self.process.stdout.readline()).decode().strip()

    async def lines(self) -> list[str]:
        """All that is left, until it ends."""
        found = []
        while line := await self.line():
            found.append(line)
        return found

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> int:
        """Close its standard input and wait for its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(_WITHIN_S):
            return await self.process.wait()


@asynccontextmanager
async def child(mode: str, folder: Path, *more: str) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.unit.state.child",
        mode,
        str(folder),
        *more,
        cwd=ROOT,
        env=clean_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
