"""Background jobs as a service: what people do with them, and what they are told of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from common.errors import NodeDrainingError
from master.background.cron import next_after
from master.background.executor import Executor
from master.background.job import BackgroundCall
from master.background.run import Model, kept_call
from master.cluster.calls import Answer
from master.state.jobs import Added, Job, NewJob
from master.state.schedules import Schedule
from master.state.store import Store


class JobService:
    """The jobs of one master. `executor` is the master's own; worker processes have others."""

    def __init__(self, executor: Executor, *, store: Store, model: Model) -> None:
        self.executor = executor
        self.catalogue = executor.catalogue
        self.limits = executor.limits
        self._store = store
        self._model = model

    def wake(self) -> None:
        """There may be something to do: a job was added in somebody's transaction, say."""
        self.executor.wake()

    # -- what people do -----------------------------------------------------------------------------------

    async def submit(self, job: NewJob) -> Added:
        """Add a job made by `catalogue.new`; it starts when it may. Raises storage errors."""
        self._refuse_when_stopping()
        added = await self._store.jobs.submit(job)
        self.wake()
        return added

    async def submit_batch(self, type_name: str, jobs: Sequence[NewJob]) -> str:
        """Add several at once; the batch's id."""
        self._refuse_when_stopping()
        batch_id = await self._store.jobs.submit_batch(type_name, jobs)
        self.wake()
        return batch_id

    async def add_schedule(
        self, name: str, type_name: str, given: Mapping[str, Any], cron: str, priority: int | None = None
    ) -> Schedule:
        """Have a job submitted again and again. Raises `InvalidRequestError` and `ConflictError`."""
        checked = self.catalogue.new(type_name, given, priority=priority)
        schedule = Schedule(
            name, type_name, checked.input, cron, priority, next_after(cron, datetime.now(UTC))
        )
        await self._store.schedules.add(schedule)
        return schedule

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job, down to the engine of its model call. Raises `NotFoundError`, `ConflictError`."""
        job = await self._store.job_control.cancel(job_id)
        if job.state == "running" and await self.executor.execution.cancel(job_id):
            job = await self._store.jobs.get(job_id)
        return job

    async def call_for(self, job: Job, owner: str, call: BackgroundCall) -> Answer:
        """A model call of a job that another process runs. Raises `CapReachedError` as well."""
        self._refuse_when_stopping()
        return await kept_call(self._model, self._store.job_calls, self.limits.caps, job, owner, call)

    async def retry(self, job_id: str) -> Job:
        """Open another run. Raises `NotFoundError` and `ConflictError`."""
        self._refuse_when_stopping()
        job = await self._store.job_control.retry(job_id)
        self.executor.execution.holds.lift(job.type)
        self.wake()
        return job

    async def replay(self, type_name: str | None = None) -> int:
        """Open another run of all dead letters; how many."""
        self._refuse_when_stopping()
        count = await self._store.job_control.replay(type_name)
        self.executor.execution.holds.lift_all()
        self.wake()
        return count

    async def pause(self, paused: bool, reason: str = "") -> None:
        """Start nothing until it is resumed; what runs goes on."""
        await self._store.job_control.pause(paused, reason)
        self.executor.paused = (paused, reason)
        self.wake()

    def _refuse_when_stopping(self) -> None:
        if self.executor.stopping:
            raise NodeDrainingError("the master is stopping; ask again when it is back", retry_after_s=5.0)

    # -- what people are told -----------------------------------------------------------------------------

    @property
    def paused(self) -> tuple[bool, str]:
        return self.executor.paused

    def unknown_types(self, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
        """Types of waiting jobs that nobody here can run: their program is not installed any more."""
        waiting = {name for state in ("queued", "waiting") for name in counts.get(state, {})}
        return sorted(waiting - self.catalogue.types.keys())

    def holds(self) -> dict[str, dict[str, Any]]:
        """Job types that wait for their surroundings, why, and for how long."""
        now = time.monotonic()
        return {
            name: {"reason": hold.reason, "wait_s": round(hold.until - now, 1)}
            for name, hold in self.executor.execution.holds.current().items()
        }
