"""An executor of jobs: takes them up in the order of our rows, and keeps the house of the queue.

Our rows are the queue. Nothing is handed to the job engine before it may start at once, so that a more urgent
job that arrives while the gate is closed is not behind others that are in there already.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from common.errors import CouncilError, InvalidRequestError
from common.logs import get_logger
from master.background.catalogue import Catalogue
from master.background.cron import next_after
from master.background.execution import Execution
from master.background.limits import JobLimits
from master.background.run import Gate, Model
from master.state.durable import Place
from master.state.executors import Liveness
from master.state.store import Store

_HOUSEKEEPING_S = 1.0
_IDLE_POLL_S = 2.0
_TOGETHER_S = 0.005  # what ends together is followed by what is claimed together
_ENGINE_IDLE_S = 60.0
_PRUNE_EVERY_S = 3600.0
_log = get_logger(__name__)


class Executor:
    """One executor of jobs: in the master, or in a worker process of its own.

    `paused`: whether people paused the queue, and why, as last read.
    """

    def __init__(
        self,
        *,
        store: Store,
        place: Place,
        catalogue: Catalogue,
        executors: Liveness,
        model: Model,
        gate: Gate,
        limits: JobLimits,
        kind: str = "master",
        schedules: bool = True,
        takes_jobs: bool = True,
    ) -> None:
        self.id = f"{kind}-{uuid.uuid4().hex[:12]}"
        self.catalogue = catalogue
        self.limits = limits
        self.takes_jobs = takes_jobs
        self.paused: tuple[bool, str] = (False, "")
        self.stopping = False
        self.execution = Execution(
            self.id,
            store=store,
            place=place,
            catalogue=catalogue,
            model=model,
            gate=gate,
            limits=limits,
            on_ended=self.wake,
        )
        self._durable = self.execution.durable
        self._store = store
        self._executors = executors
        self._gate = gate
        self._schedules = schedules
        self._wake = asyncio.Event()
        self._kept_house_at = float("-inf")
        self._pruned_at = float("-inf")
        self._busy_at = time.monotonic()

    # -- life ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take up what dead executors left, then whatever comes; at the end put back what runs."""
        await asyncio.to_thread(self._executors.hold, self.id)
        tasks = [
            asyncio.create_task(self._run(), name="jobs"),
            asyncio.create_task(self._follow_gate(), name="jobs follow the gate"),
        ]
        try:
            yield
        finally:
            await self.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._durable.close()
            await asyncio.to_thread(self._executors.release, self.id)

    async def stop(self) -> None:
        """Put every running job back so that it goes on behind its last finished step. Safe twice."""
        self.stopping = True
        await self.execution.stop()

    def wake(self) -> None:
        """Look at everything now: there may be something to do."""
        self._wake.set()

    async def _follow_gate(self) -> None:
        with self._gate.changes() as changed:
            while True:
                await changed.wait()
                changed.clear()
                self.wake()

    async def _run(self) -> None:
        troubled = False
        while not self.stopping:
            self._wake.clear()
            try:
                wait_s = await self._turn()
                troubled = False
            except CouncilError as error:
                if not troubled:
                    _log.warning("background jobs wait", code=error.code, detail=error.detail)
                troubled, wait_s = True, _IDLE_POLL_S
            except Exception:
                _log.exception("background jobs could not be looked after")
                wait_s = _IDLE_POLL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            if self.execution.runs:
                await asyncio.sleep(_TOGETHER_S)

    async def _turn(self) -> float:
        """One look at everything; seconds until the next one at the latest."""
        now = time.monotonic()
        if now - self._kept_house_at >= _HOUSEKEEPING_S:
            self._kept_house_at = now
            await self._keep_house()
        await self._fill()
        if self.execution.runs:
            self._busy_at = now
            return _HOUSEKEEPING_S
        if self._durable.is_launched and now - self._busy_at > _ENGINE_IDLE_S:
            await self._durable.close()
        due_s = await self._store.job_queue.next_due(datetime.now(UTC))
        return min(_IDLE_POLL_S, max(due_s, 0.05)) if due_s else _IDLE_POLL_S

    # -- the queue ----------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        queue = self._store.job_queue
        if self.execution.unsettled:
            await queue.take_from(self.id, keep=tuple(self.execution.runs))
            self.execution.unsettled = False
        for owner in await queue.owners() - {self.id}:
            if not await asyncio.to_thread(self._executors.lives, owner):
                taken = await queue.take_from(owner)
                _log.info("jobs taken over", owner=owner, jobs=len(taken))
        if self.execution.runs:
            for job_id in await queue.cancelling(self.id):
                if job_id in self.execution.runs:
                    self.execution.runs[job_id].stop("cancelled")
        self.paused = await self._store.job_control.paused()
        await self._fire_schedules()
        now = time.monotonic()
        if now - self._pruned_at >= _PRUNE_EVERY_S:
            self._pruned_at = now
            await self._prune()

    async def _fire_schedules(self) -> None:
        """Submit what is due, once for all the times that were missed."""
        if not self._schedules:
            return
        now = datetime.now(UTC)
        for schedule in await self._store.schedules.list(due=now):
            try:
                job = self.catalogue.new(
                    schedule.type,
                    schedule.input,
                    priority=schedule.priority,
                    key=f"schedule/{schedule.name}",
                )
            except InvalidRequestError as error:
                _log.warning("schedule cannot be submitted", schedule=schedule.name, reason=error.detail)
                await self._store.schedules.skip(schedule, next_after(schedule.cron, now))
                continue
            added = await self._store.schedules.fire(schedule, job, next_after(schedule.cron, now))
            if added is not None:
                _log.info("schedule due", schedule=schedule.name, job_id=added.id, new=added.is_new)

    async def _prune(self) -> None:
        """Delete what is too old: in the engine first, so that a crash leaves nothing without its row."""
        while old := await self._store.jobs.expired(self.limits.retention):
            await self._durable.forget(old)
            await self._store.jobs.delete(old, self.limits.retention)

    def waiting_for(self) -> str | None:
        """Why no job starts now, in words; `None` when one may."""
        if self.stopping:
            return "the master is stopping"
        if self.paused[0]:
            return f"the queue is paused: {self.paused[1]}" if self.paused[1] else "the queue is paused"
        verdict = self._gate.verdict()
        return None if verdict.open else verdict.reason

    async def _fill(self) -> None:
        while (
            self.takes_jobs
            and self.waiting_for() is None
            and (free := self.limits.concurrency - len(self.execution.runs)) > 0
        ):
            claimed = await self._store.job_queue.claim(
                self.id,
                self.catalogue.types.keys() - self.execution.holds.current().keys(),
                limit=free,
                now=datetime.now(UTC),
                long=self._gate.verdict(long=True).open,
                most_running=self.limits.concurrency,
            )
            if not claimed:
                return
            await asyncio.gather(*(self.execution.hand_over(job) for job in claimed))

    # -- what it does now ---------------------------------------------------------------------------------

    @property
    def engine_runs(self) -> bool:
        """Whether the job engine has been started: with the first job, until there was none for a while."""
        return self._durable.is_launched

    @property
    def running_ids(self) -> frozenset[str]:
        """Jobs that this executor runs now."""
        return frozenset(self.execution.runs)
