"""Background jobs as a service: takes them up in the order of our rows, runs them, and settles each one.

Our rows are the queue. Nothing is handed to the job engine before it may start at once, so that a more urgent
job that arrives while the gate is closed is not behind others that are in there already.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from common.errors import CouncilError, InternalError, InvalidRequestError, NodeDrainingError
from common.logs import bind, get_logger
from common.master_settings import MasterSettings
from master.background.caps import Caps, midnight_after
from master.background.catalogue import Catalogue
from master.background.cron import next_after
from master.background.job import BackgroundCall
from master.background.run import Gate, JobRun, Model, kept_call
from master.background.verdict import judge
from master.cluster.calls import Answer
from master.state.durable import Durable, Place, StepsChangedError, Unfinished
from master.state.executors import Liveness
from master.state.jobs import Added, Job, NewJob
from master.state.schedules import Schedule
from master.state.store import Store

_HOUSEKEEPING_S = 1.0
_IDLE_POLL_S = 2.0
_TOGETHER_S = 0.005  # what ends together is followed by what is claimed together
_STOP_WITHIN_S = 3.0
_CANCEL_WITHIN_S = 5.0
_ENGINE_IDLE_S = 60.0
_PRUNE_EVERY_S = 3600.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What the settings say of jobs."""

    concurrency: int = 4
    max_attempts: int = 5
    first_pause_s: float = 5.0
    retention: timedelta = timedelta(days=30)
    caps: Caps = field(default_factory=Caps)

    @classmethod
    def of(cls, settings: MasterSettings) -> JobLimits:
        return cls(
            settings.bg_concurrency,
            settings.bg_max_attempts,
            settings.bg_first_pause_s,
            timedelta(days=settings.bg_retention_days),
            Caps(settings.bg_max_calls_per_day, settings.bg_max_tokens_per_day),
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """No job of a type starts before `until` (monotonic seconds)."""

    until: float
    reason: str


class JobService:
    """One executor of jobs: in the master, or in a worker process of its own."""

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
        self.catalogue = catalogue
        self.limits = limits
        self.executor_id = f"{kind}-{uuid.uuid4().hex[:12]}"
        self._store = store
        self._durable = Durable(place, self.executor_id, self._execute)
        self._executors = executors
        self._model = model
        self._gate = gate
        self._schedules = schedules
        self.takes_jobs = takes_jobs
        self._runs: dict[str, JobRun] = {}
        self._holds: dict[str, Hold] = {}
        self._paused: tuple[bool, str] = (False, "")
        self._anew: set[str] = set()
        self._unsettled = False
        self._stopping = False
        self._wake = asyncio.Event()
        self._kept_house_at = float("-inf")
        self._pruned_at = float("-inf")
        self._busy_at = time.monotonic()

    # -- life ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take up what dead executors left, then whatever comes; at the end put back what runs."""
        await asyncio.to_thread(self._executors.hold, self.executor_id)
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
            await asyncio.to_thread(self._executors.release, self.executor_id)

    async def stop(self) -> None:
        """Put every running job back so that it goes on behind its last finished step. Safe twice."""
        self._stopping = True
        runs = list(self._runs.values())
        for run in runs:
            run.stop("stopping")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WITHIN_S):
                for run in runs:
                    await run.ended.wait()

    def wake(self) -> None:
        """There may be something to do: a job was added in somebody's transaction, say."""
        self._wake.set()

    async def _follow_gate(self) -> None:
        with self._gate.changes() as changed:
            while True:
                await changed.wait()
                changed.clear()
                self.wake()

    async def _run(self) -> None:
        troubled = False
        while not self._stopping:
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
            if self._runs:
                await asyncio.sleep(_TOGETHER_S)

    async def _turn(self) -> float:
        """One look at everything; seconds until the next one at the latest."""
        now = time.monotonic()
        if now - self._kept_house_at >= _HOUSEKEEPING_S:
            self._kept_house_at = now
            await self._keep_house()
        await self._fill()
        if self._runs:
            self._busy_at = now
            return _HOUSEKEEPING_S
        if self._durable.is_launched and now - self._busy_at > _ENGINE_IDLE_S:
            await self._durable.close()
        due_s = await self._store.job_queue.next_due(datetime.now(UTC))
        return min(_IDLE_POLL_S, max(due_s, 0.05)) if due_s else _IDLE_POLL_S

    # -- the queue ----------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        queue = self._store.job_queue
        if self._unsettled:
            await queue.take_from(self.executor_id, keep=tuple(self._runs))
            self._unsettled = False
        for owner in await queue.owners() - {self.executor_id}:
            if not await asyncio.to_thread(self._executors.lives, owner):
                taken = await queue.take_from(owner)
                _log.info("jobs taken over", owner=owner, jobs=len(taken))
        if self._runs:
            for job_id in await queue.cancelling(self.executor_id):
                if job_id in self._runs:
                    self._runs[job_id].stop("cancelled")
        self._paused = await self._store.job_control.paused()
        await self._fire_schedules()
        now = time.monotonic()
        self._holds = {name: hold for name, hold in self._holds.items() if hold.until > now}
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
        if self._stopping:
            return "the master is stopping"
        if self._paused[0]:
            return f"the queue is paused: {self._paused[1]}" if self._paused[1] else "the queue is paused"
        verdict = self._gate.verdict()
        return None if verdict.open else verdict.reason

    async def _fill(self) -> None:
        while (
            self.takes_jobs
            and self.waiting_for() is None
            and (free := self.limits.concurrency - len(self._runs)) > 0
        ):
            now = time.monotonic()
            held = {name for name, hold in self._holds.items() if hold.until > now}
            claimed = await self._store.job_queue.claim(
                self.executor_id,
                self.catalogue.types.keys() - held,
                limit=free,
                now=datetime.now(UTC),
                long=self._gate.verdict(long=True).open,
                most_running=self.limits.concurrency,
            )
            if not claimed:
                return
            await asyncio.gather(*(self._hand_over(job) for job in claimed))

    async def _hand_over(self, job: Job) -> None:
        before = self._runs.get(job.id)
        if before is not None:  # put back a moment ago: let it leave the engine first
            await before.ended.wait()
        run = self._runs[job.id] = JobRun(
            job,
            owner=self.executor_id,
            store=self._store,
            durable=self._durable,
            model=self._model,
            gate=self._gate,
            caps=self.limits.caps,
        )
        try:
            if job.id in self._anew:
                await self._durable.forget([job.id])
                self._anew.discard(job.id)
            await self._durable.hand_over(job.id, known=job.handed > 1, again=job.again)
        except CouncilError as error:
            await self._failed(run, error)
            self._ended(run)
        except BaseException:
            self._unsettled = True
            self._ended(run)
            raise

    def _ended(self, run: JobRun) -> None:
        if self._runs.get(run.job.id) is run:
            del self._runs[run.job.id]
        run.ended.set()
        self.wake()

    # -- one job ------------------------------------------------------------------------------------------

    async def _execute(self, job_id: str) -> None:
        """What the engine calls. It ends well, or by `Unfinished`: the engine records no failure of a job."""
        run = self._runs.get(job_id)
        if run is None or run.task is not None:
            raise Unfinished  # none of this life's jobs
        run.task = asyncio.current_task()
        try:
            with bind(job_id=job_id, job_type=run.job.type):
                await self._perform(run)
        except Exception:
            _log.exception("job not settled by a fault", job_id=job_id)
            self._unsettled = True
            raise Unfinished from None
        finally:
            self._ended(run)

    async def _perform(self, run: JobRun) -> None:
        job = run.job
        try:
            if run.reason is not None:
                raise Unfinished
            kind = self.catalogue.get(job.type)
            result = await kind.run(run, self.catalogue.read(job.type, job.input))
            if await self._store.job_queue.finish(job.id, self.executor_id, result):
                return
            _log.warning("job was taken over before it ended here")
            raise Unfinished
        except (asyncio.CancelledError, Unfinished):
            await self._left(run)
            raise
        except StepsChangedError as error:
            # Its program is another one than when it began. Steps are idempotent: it begins anew.
            _log.warning("job begins anew", reason=error.detail)
            self._anew.add(job.id)
            await self._left(run)
        except CouncilError as error:
            await self._failed(run, error)
        except Exception as error:
            _log.exception("job crashed")
            await self._failed(
                run, InternalError(f"the job failed by a fault: {type(error).__name__}: {error}")
            )
        raise Unfinished

    async def _left(self, run: JobRun) -> None:
        """The job was stopped where it was."""
        queue, job = self._store.job_queue, run.job
        if run.reason == "failed" and run.error is not None:
            await self._failed(run, run.error)
            return
        try:
            if run.reason == "cancelled":
                await queue.cancelled(job.id, self.executor_id)
            elif run.reason == "cap" and run.error is not None:
                local = datetime.now()
                midnight = midnight_after(local)
                self._hold(job.type, (midnight - local).total_seconds(), run.error.detail)
                await queue.put_back(
                    job.id,
                    self.executor_id,
                    cause=run.error.to_problem(),
                    not_before=midnight.astimezone(UTC),
                )
            elif run.reason != "lost":
                await queue.put_back(job.id, self.executor_id)
        except CouncilError as error:
            self._not_settled(error)

    async def _failed(self, run: JobRun, error: CouncilError) -> None:
        job = run.job
        verdict = judge(
            error,
            attempts=job.attempts,
            pauses=0 if run.got_on else job.pauses,
            max_attempts=self.limits.max_attempts,
            first_pause_s=self.limits.first_pause_s,
            chance=random.random(),
        )
        _log.info("job failed", code=error.code, verdict=verdict.kind, wait_s=round(verdict.wait_s, 1))
        try:
            if verdict.kind == "dead":
                await self._store.job_queue.bury(
                    job.id, self.executor_id, error.to_problem(), attempts=verdict.attempts
                )
                return
            if verdict.kind == "pause":
                self._hold(job.type, verdict.wait_s, error.detail)
            await self._store.job_queue.put_back(
                job.id,
                self.executor_id,
                cause=error.to_problem(),
                not_before=datetime.now(UTC) + timedelta(seconds=verdict.wait_s),
                attempts=verdict.attempts,
                pauses=verdict.pauses,
            )
        except CouncilError as trouble:
            self._not_settled(trouble)

    def _hold(self, type_name: str, wait_s: float, reason: str) -> None:
        """Where one job of a type lacks its surroundings, the others would as well."""
        self._holds[type_name] = Hold(time.monotonic() + wait_s, reason)

    def _not_settled(self, error: CouncilError) -> None:
        """The row could not be written: it is put back as soon as rows can be."""
        self._unsettled = True
        _log.warning("job not settled yet", code=error.code, detail=error.detail)

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
        run = self._runs.get(job_id)
        if job.state == "running" and run is not None:
            run.stop("cancelled")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CANCEL_WITHIN_S):
                    await run.ended.wait()
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
        self._holds.pop(job.type, None)
        self.wake()
        return job

    async def replay(self, type_name: str | None = None) -> int:
        """Open another run of all dead letters; how many."""
        self._refuse_when_stopping()
        count = await self._store.job_control.replay(type_name)
        self._holds.clear()
        self.wake()
        return count

    async def pause(self, paused: bool, reason: str = "") -> None:
        """Start nothing until it is resumed; what runs goes on."""
        await self._store.job_control.pause(paused, reason)
        self._paused = (paused, reason)
        self.wake()

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise NodeDrainingError("the master is stopping; ask again when it is back", retry_after_s=5.0)

    # -- what people are told -----------------------------------------------------------------------------

    @property
    def engine_runs(self) -> bool:
        """Whether the job engine has been started: with the first job, until there was none for a while."""
        return self._durable.is_launched

    @property
    def running_ids(self) -> frozenset[str]:
        """Jobs that this executor runs now."""
        return frozenset(self._runs)

    @property
    def paused(self) -> tuple[bool, str]:
        return self._paused

    def unknown_types(self, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
        """Types of waiting jobs that nobody here can run: their program is not installed any more."""
        waiting = {name for state in ("queued", "waiting") for name in counts.get(state, {})}
        return sorted(waiting - self.catalogue.types.keys())

    def holds(self) -> dict[str, dict[str, Any]]:
        """Job types that wait for their surroundings, why, and for how long."""
        now = time.monotonic()
        return {
            name: {"reason": hold.reason, "wait_s": round(hold.until - now, 1)}
            for name, hold in self._holds.items()
            if hold.until > now
        }
