"""Who runs when: slots of loaded models, the queue of loads, eviction, keep-alive (section 12)."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.standin.journal import Journal
from tests.standin.model import StandInModel
from tests.standin.wire import Refusal, lookup_key

BUSY_TEXT = "server busy, please try again.  maximum pending requests exceeded"
DIED_TEXT = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
FOR_EVER_S = 292 * 365 * 86_400.0
LoadOptions = tuple[tuple[str, Any], ...]


@dataclass(eq=False)
class Runner:
    """One loaded instance of a model."""

    model: StandInModel
    load_options: LoadOptions
    context: int
    """Tokens per slot."""
    slots: int
    keep_alive_s: float
    references: int = 0
    """Calls that were handed this runner and have not ended: those waiting for a slot too."""
    active: int = 0
    waiters: deque[asyncio.Future[None]] = field(default_factory=deque)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    expiry: asyncio.TimerHandle | None = None
    expires_at: float = 0.0
    """On the loop's clock."""
    last_prompts: deque[list[str]] = field(default_factory=deque)
    gone: bool = False


@dataclass(eq=False)
class _Pending:
    model: StandInModel
    load_options: LoadOptions
    context: int
    keep_alive_s: float
    runner: asyncio.Future[Runner]
    abandoned: asyncio.Event


class Lease:
    """A runner handed to one call. `async with lease:` waits for a slot in FIFO order and holds it."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self.runner = runner
        self._scheduler = scheduler
        self._released = False

    async def __aenter__(self) -> Lease:
        try:
            await self._scheduler._take_slot(self.runner)
        except BaseException:
            self.release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scheduler._free_slot(self.runner)
        self.release()

    def release(self) -> None:
        """Give the runner back; its keep-alive timer starts with the last one."""
        if not self._released:
            self._released = True
            self._scheduler._release(self.runner)


class Scheduler:
    """Runners of one server. All methods belong to one event loop."""

    def __init__(self, journal: Journal, *, slots: int, max_loaded: int, max_queue: int) -> None:
        self._journal = journal
        self._slots = slots
        self._max_loaded = max_loaded
        self._max_queue = max_queue
        self._runners: dict[str, Runner] = {}
        self._queue: deque[_Pending] = deque()
        self._work = asyncio.Event()
        self._loading: str | None = None

    @property
    def runners(self) -> list[Runner]:
        """Those ready, in the order of their loading."""
        return list(self._runners.values())

    @property
    def queued_loads(self) -> int:
        return len(self._queue)

    @property
    def loading(self) -> str | None:
        """The model being loaded now."""
        return self._loading

    def running(self) -> int:
        """Generations that hold a slot, over all models."""
        return sum(runner.active for runner in self._runners.values())

    def put_resident(self, model: StandInModel, load_options: LoadOptions, context: int) -> None:
        """Load without time and without counting."""
        self._install(model, load_options, context, FOR_EVER_S)

    async def acquire(
        self, model: StandInModel, load_options: LoadOptions, context: int, keep_alive_s: float
    ) -> Lease:
        """A lease on a loaded runner. Refuses with 503 only if a load is needed and the queue is full."""
        runner = self._runners.get(lookup_key(model.name))
        if runner is not None and runner.load_options == load_options:
            return self._hand_out(runner, keep_alive_s)
        if len(self._queue) - (self._loading is None) >= self._max_queue:  # the head is no longer queued
            raise Refusal(503, BUSY_TEXT)
        future: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
        pending = _Pending(model, load_options, context, keep_alive_s, future, asyncio.Event())
        self._queue.append(pending)
        self._work.set()
        self._journal.changed()
        try:
            runner = await future
        except asyncio.CancelledError:
            pending.abandoned.set()
            if pending in self._queue:
                self._queue.remove(pending)
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(future.result())
            raise
        return Lease(runner, self)

    def unload(self, name: str) -> None:
        """Unload at once, or as soon as its calls have ended."""
        runner = self._runners.get(lookup_key(name))
        if runner is not None:
            runner.keep_alive_s = 0.0
            if runner.references == 0:
                self._remove(runner)

    def kill(self, name: str) -> None:
        """The runner is gone now; calls that hold it go on."""
        runner = self._runners.get(lookup_key(name))
        if runner is not None:
            self._remove(runner)

    async def run(self) -> None:
        """Work the queue of loads, one at a time, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._queue:
                pending = self._queue.popleft()
                self._loading = pending.model.name
                self._journal.changed()
                try:
                    await self._serve(pending)
                finally:
                    self._loading = None
                    self._journal.changed()

    async def _serve(self, pending: _Pending) -> None:
        key = lookup_key(pending.model.name)
        reload = False
        while not pending.abandoned.is_set():
            runner = self._runners.get(key)
            if runner is not None and runner.load_options == pending.load_options:
                self._deliver(pending, runner)
                return
            victim = runner
            if victim is None and len(self._runners) >= self._max_loaded:
                victim = min(
                    self._runners.values(), key=lambda r: (r.references > 0, r.keep_alive_s, r.model.name)
                )
            if victim is None:
                break
            if victim.references:
                await self._either(victim.idle, pending.abandoned)
                continue
            self._remove(victim)
            if victim is runner:
                reload = True
            else:
                self._journal.counters.evictions += 1
        else:
            return
        if not await self._load(pending):
            self._journal.counters.aborted_loads += 1
            return
        counters = self._journal.counters
        counters.loads += 1
        counters.reloads += reload
        new = self._install(pending.model, pending.load_options, pending.context, pending.keep_alive_s)
        self._deliver(pending, new)

    async def _load(self, pending: _Pending) -> bool:
        """Whether the load came to its end; it is aborted when its caller leaves."""
        if pending.model.load_ms <= 0:
            return True
        try:
            async with asyncio.timeout(pending.model.load_ms / 1000):
                await pending.abandoned.wait()
        except TimeoutError:
            return True
        return False

    @staticmethod
    async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(first.wait()), asyncio.ensure_future(second.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _install(
        self, model: StandInModel, load_options: LoadOptions, context: int, keep_alive_s: float
    ) -> Runner:
        slots = 1 if model.embedding_only else (model.slots or self._slots)
        runner = Runner(model, load_options, context, slots, keep_alive_s)
        runner.last_prompts = deque(maxlen=slots)
        runner.idle.set()
        self._runners[lookup_key(model.name)] = runner
        self._schedule_expiry(runner)
        return runner

    def _deliver(self, pending: _Pending, runner: Runner) -> None:
        if pending.runner.done():
            return
        self._reference(runner, pending.keep_alive_s)
        pending.runner.set_result(runner)

    def _hand_out(self, runner: Runner, keep_alive_s: float) -> Lease:
        self._reference(runner, keep_alive_s)
        return Lease(runner, self)

    def _reference(self, runner: Runner, keep_alive_s: float) -> None:
        runner.references += 1
        runner.keep_alive_s = keep_alive_s
        runner.idle.clear()
        if runner.expiry is not None:
            runner.expiry.cancel()
            runner.expiry = None

    def _release(self, runner: Runner) -> None:
        runner.references -= 1
        if runner.references == 0:
            runner.idle.set()
            if not runner.gone:
                self._schedule_expiry(runner)

    def _schedule_expiry(self, runner: Runner) -> None:
        loop = asyncio.get_running_loop()
        runner.expires_at = loop.time() + min(runner.keep_alive_s, FOR_EVER_S)
        if runner.keep_alive_s < FOR_EVER_S:
            runner.expiry = loop.call_at(runner.expires_at, self._remove, runner)

    def _remove(self, runner: Runner) -> None:
        runner.gone = True
        if runner.expiry is not None:
            runner.expiry.cancel()
        if self._runners.get(lookup_key(runner.model.name)) is runner:
            del self._runners[lookup_key(runner.model.name)]
        self._journal.changed()

    async def _take_slot(self, runner: Runner) -> None:
        name = runner.model.name
        if runner.active < runner.slots and not runner.waiters:
            runner.active += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            runner.waiters.append(turn)
            self._journal.wait_changed(name, 1)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_slot(runner)
                elif turn in runner.waiters:
                    runner.waiters.remove(turn)
                raise
            finally:
                self._journal.wait_changed(name, -1)
        self._journal.slot_taken(name)

    def _free_slot(self, runner: Runner) -> None:
        self._journal.slot_freed(runner.model.name)
        self._pass_slot(runner)

    def _pass_slot(self, runner: Runner) -> None:
        while runner.waiters:
            turn = runner.waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        runner.active -= 1
