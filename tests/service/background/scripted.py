"""Job types for the tests; `COUNCIL_JOB_TYPES=tests.service.background.scripted:TYPES` does it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from common import errors
from common.protocol import Message
from master.background.job import BackgroundCall, JobContext, JobInput, JobType


class Nothing(JobInput):
    """For jobs that take nothing, and a number to tell them apart."""

    number: int = 0


class Steps(JobInput):
    """`folder`: a file per execution of a step is left there, named by job, step and how often."""

    folder: str
    steps: int = 3


class Failing(JobInput):
    """Fails `times` times by `code`, counted by files in `folder`; then it is done."""

    folder: str
    code: str = "engine_failed"
    times: int = 1
    before: int = 1


class Asking(JobInput):
    """Asks `calls` times, each in a step of its own."""

    calls: int = 1
    model: str | None = None
    words: str = "Say something."


class Waiting(JobInput):
    """Runs until a file named `go` is in the folder."""

    folder: str


async def _nothing(context: JobContext, given: Nothing) -> dict[str, Any]:
    del context
    return {"number": given.number}


def leave_mark(folder: str, name: str) -> int:
    """Leave one more file for this name; how many there are now."""
    place = Path(folder)
    count = len(list(place.glob(f"{name}.*"))) + 1
    (place / f"{name}.{count}").touch()
    return count


async def _steps(context: JobContext, given: Steps) -> dict[str, Any]:
    total = 0
    for number in range(given.steps):

        async def one(number: int = number) -> int:
            await asyncio.to_thread(leave_mark, given.folder, f"{context.job_id}-{number}")
            return number + 1

        total += await context.step(f"step {number}", one)
        await context.progress(number + 1, given.steps)
    return {"total": total}


async def _failing(context: JobContext, given: Failing) -> dict[str, Any]:
    async def first() -> str:
        await asyncio.to_thread(leave_mark, given.folder, f"{context.job_id}-first")
        return "first"

    async def second() -> int:
        count = await asyncio.to_thread(leave_mark, given.folder, f"{context.job_id}-second")
        if count <= given.times:
            raise errors.BY_CODE[given.code](f"failure {count}", node="pc2")
        return count

    for number in range(given.before):
        await context.step(f"first {number}", first)
    return {"second": await context.step("second", second)}


async def _asking(context: JobContext, given: Asking) -> dict[str, Any]:
    said: list[int] = []
    for number in range(given.calls):

        async def ask(number: int = number) -> int:
            words = f"{given.words} ({context.job_id} {number})"
            answer = await context.generate(
                BackgroundCall((Message(role="user", content=words),), given.model)
            )
            return len(answer.text)

        said.append(await context.step(f"ask {number}", ask))
        await context.progress(number + 1, given.calls)
    return {"said": said}


async def _waiting(context: JobContext, given: Waiting) -> dict[str, Any]:
    async def wait() -> bool:
        while not await asyncio.to_thread((Path(given.folder) / "go").exists):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return True

    await context.progress(0, 1, "waiting")
    return {"went": await context.step("wait", wait)}


NOTHING = JobType("nothing", 10, Nothing, _nothing)
STEPS = JobType("steps", 20, Steps, _steps)
FAILING = JobType("failing", 20, Failing, _failing)
ASKING = JobType("asking", 20, Asking, _asking)
WAITING = JobType("waiting", 30, Waiting, _waiting)
LONG = JobType("long", 30, Nothing, _nothing, long=True)
TYPES = (NOTHING, STEPS, FAILING, ASKING, WAITING, LONG)
