"""A job service on a database of its own, within the test's process: no server, no node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.usage import CallLatency, TokenUsage
from master.background.catalogue import Catalogue
from master.background.executor import Executor
from master.background.jobs import JobService
from master.background.limits import JobLimits
from master.cluster.calls import Answer, Call, CallWatcher
from master.state.durable import Place
from master.state.executors import Executors
from master.state.jobs import Job
from master.state.store import Store

TYPES = "tests.service.background.scripted:TYPES"
ENDED = ("done", "dead", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Said:
    open: bool
    reason: str


class Door:
    """A gate that a test opens and closes."""

    def __init__(self, *, is_open: bool = True, long: bool = True) -> None:
        self.is_open = is_open
        self.long = long
        self._moved: set[asyncio.Event] = set()

    def move(self, *, is_open: bool) -> None:
        self.is_open = is_open
        for event in self._moved:
            event.set()

    async def passed(self, node: str | None = None, *, long: bool = False) -> None:
        with self.changes() as changed:
            while not self.verdict(node, long=long).open:
                await changed.wait()
                changed.clear()

    def verdict(self, node: str | None = None, *, long: bool = False) -> Said:
        del node
        return Said(self.is_open and (self.long or not long), "somebody is here")

    @contextmanager
    def changes(self) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._moved.add(event)
        try:
            yield event
        finally:
            self._moved.discard(event)


class Parrot:
    """A model that answers at once, or raises what `failing` says; it counts its calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.failing: Exception | None = None
        self.hanging = asyncio.Event()
        self.hangs = False
        self.cancelled = 0
        self.answered = asyncio.Event()
        self.after_call: Callable[[], None] | None = None

    async def run(self, call: Call, watcher: CallWatcher) -> Answer:
        self.calls.append(call)
        await watcher.attempt_started("pc2")
        if self.hangs:
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        if self.failing is not None:
            raise self.failing
        self.answered.set()
        if self.after_call is not None:
            self.after_call()
        return Answer("pc2", "Yes.", "", "stop", TokenUsage.of(7, 3), CallLatency(total_ms=5.0))


@dataclass(slots=True)
class Workshop:
    folder: Path
    store: Store
    door: Door
    parrot: Parrot
    limits: JobLimits
    jobs: JobService
    url: str
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def submit(self, type_name: str, given: dict[str, Any] | None = None, **named: Any) -> str:
        return (await self.jobs.submit(self.jobs.catalogue.new(type_name, given or {}, **named))).id

    async def reaches(self, job_id: str, *states: str, within_s: float = 15.0) -> Job:
        """The job once it is in one of these states (or ended)."""
        async with asyncio.timeout(within_s):
            while (job := await self.store.jobs.get(job_id)).state not in (states or ENDED):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return job

    async def all_ended(self, within_s: float = 60.0) -> None:
        """Wait until every job has ended."""
        async with asyncio.timeout(within_s):
            while set(await self.store.jobs.counts()) - set(ENDED):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def settled(self, within_s: float = 10.0) -> None:
        """Wait until this service runs nothing any more."""
        async with asyncio.timeout(within_s):
            while self.jobs.executor.running_ids:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def restart(self) -> None:
        """Stop the service in order and start another on the same database."""
        await self.stack.aclose()
        await self._start()

    async def _start(self) -> None:
        self.jobs = service(self.folder, self.url, self.store, self.door, self.parrot, self.limits)
        await self.stack.enter_async_context(self.jobs.executor.running())


def service(
    folder: Path, url: str, store: Store, door: Door, parrot: Parrot, limits: JobLimits
) -> JobService:
    executor = Executor(
        store=store,
        place=Place.beside(url),
        catalogue=Catalogue.of(extensions=[TYPES]),
        executors=Executors(folder / "executors"),
        model=parrot,
        gate=door,
        limits=limits,
    )
    return JobService(executor, store=store, model=parrot)


@asynccontextmanager
async def workshop(
    folder: Path,
    *,
    is_open: bool = True,
    long: bool = True,
    limits: JobLimits | None = None,
    parrot: Parrot | None = None,
    url: str | None = None,
) -> AsyncIterator[Workshop]:
    url = url or f"sqlite:///{folder / 'council.db'}"
    store = await Store.open(url, data_dir=folder)
    limits = limits or JobLimits(first_pause_s=0.05)
    door, parrot = Door(is_open=is_open, long=long), parrot or Parrot()
    jobs = service(folder, url, store, door, parrot, limits)
    found = Workshop(folder, store, door, parrot, limits, jobs, url)
    try:
        await found.stack.enter_async_context(found.jobs.executor.running())
        yield found
    finally:
        await found.stack.aclose()
        await store.close()
