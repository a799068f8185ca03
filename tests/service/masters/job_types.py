"""A job type that stops between its steps until it is let go; for masters that die over it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from master.background.job import JobContext, JobInput, JobType
from tests.service.background.scripted import leave_mark


class Halting(JobInput):
    """Leaves a mark in `folder`, waits for a file named `go` there, and leaves another."""

    folder: str


async def _halting(context: JobContext, given: Halting) -> dict[str, Any]:
    async def mark(name: str) -> int:
        return await asyncio.to_thread(leave_mark, given.folder, name)

    async def wait() -> bool:
        while not await asyncio.to_thread((Path(given.folder) / "go").exists):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return True

    first = await context.step("first", lambda: mark("first"))
    await context.step("wait", wait)
    return {"first": first, "last": await context.step("last", lambda: mark("last"))}


TYPES = (JobType("halting", 10, Halting, _halting),)
