"""The execution of jobs that were claimed: each handed to the job engine, performed, and settled in our rows.

How a job ends is decided here: it is done, goes back into the queue, or is a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from common.errors import CouncilError, InternalError
from common.logs import bind, get_logger
from master.background.caps import midnight_after
from master.background.catalogue import Catalogue
from master.background.limits import JobLimits
from master.background.run import Gate, JobRun, Model
from master.background.verdict import judge
from master.state.durable import Durable, Place, StepsChangedError, Unfinished
from master.state.jobs import Job
from master.state.store import Store

_STOP_WITHIN_S = 3.0
_CANCEL_WITHIN_S = 5.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hold:
    """No job of a type starts before `until` (monotonic seconds)."""

    until: float
    reason: str


class Holds:
    """Job types that wait: where one job of a type lacks its surroundings, the others would as well."""

    def __init__(self) -> None:
        self._holds: dict[str, Hold] = {}

    def put(self, type_name: str, wait_s: float, reason: str) -> None:
        """Start no job of this type for so long."""
        self._holds[type_name] = Hold(time.monotonic() + wait_s, reason)

    def lift(self, type_name: str) -> None:
        """Let jobs of this type start again."""
        self._holds.pop(type_name, None)

    def lift_all(self) -> None:
        """Let jobs of every type start again."""
        self._holds.clear()

    def current(self) -> Mapping[str, Hold]:
        """What is held now, by type."""
        now = time.monotonic()
        self._holds = {name: hold for name, hold in self._holds.items() if hold.until > now}
        return self._holds


class Execution:
    """The jobs that one executor runs, in `runs` by their ids.

    `on_ended` is called when one has left. `unsettled`: a row could not be written, so that it still says
    `running` of a job that is not among `runs`.
    """

    def __init__(
        self,
        executor_id: str,
        *,
        store: Store,
        place: Place,
        catalogue: Catalogue,
        model: Model,
        gate: Gate,
        limits: JobLimits,
        on_ended: Callable[[], None],
    ) -> None:
        self.executor_id = executor_id
        self.durable = Durable(place, executor_id, self._execute)
        self.runs: dict[str, JobRun] = {}
        self.holds = Holds()
        self.unsettled = False
        self._store = store
        self._catalogue = catalogue
        self._model = model
        self._gate = gate
        self._limits = limits
        self._on_ended = on_ended
        self._anew: set[str] = set()

    # -- in and out ---------------------------------------------------------------------------------------

    async def hand_over(self, job: Job) -> None:
        """Let the engine run a job that was claimed, from the beginning or behind its last finished step."""
        before = self.runs.get(job.id)
        if before is not None:  # put back a moment ago: let it leave the engine first
            await before.ended.wait()
        run = self.runs[job.id] = JobRun(
            job,
            owner=self.executor_id,
            store=self._store,
            durable=self.durable,
            model=self._model,
            gate=self._gate,
            caps=self._limits.caps,
        )
        try:
            if job.id in self._anew:
                await self.durable.forget([job.id])
                self._anew.discard(job.id)
            await self.durable.hand_over(job.id, known=job.handed > 1, again=job.again)
        except CouncilError as error:
            await self._failed(run, error)
            self._ended(run)
        except BaseException:
            self.unsettled = True
            self._ended(run)
            raise

    def _ended(self, run: JobRun) -> None:
        if self.runs.get(run.job.id) is run:
            del self.runs[run.job.id]
        run.ended.set()
        self._on_ended()

    async def cancel(self, job_id: str) -> bool:
        """Stop a job, down to the engine of its model call, and wait a while for its end; false for one
        that does not run here.
        """
        run = self.runs.get(job_id)
        if run is None:
            return False
        run.stop("cancelled")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCEL_WITHIN_S):
                await run.ended.wait()
        return True

    async def stop(self) -> None:
        """Put every running job back so that it goes on behind its last finished step. Safe twice."""
        runs = list(self.runs.values())
        for run in runs:
            run.stop("stopping")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WITHIN_S):
                for run in runs:
                    await run.ended.wait()

    # -- one job ------------------------------------------------------------------------------------------

    async def _execute(self, job_id: str) -> None:
        """What the engine calls. It ends well, or by `Unfinished`: the engine records no failure of a job."""
        run = self.runs.get(job_id)
        if run is None or run.task is not None:
            raise Unfinished  # none of this life's jobs
        run.task = asyncio.current_task()
        try:
            with bind(job_id=job_id, job_type=run.job.type):
                await self._perform(run)
        except Exception:
            _log.exception("job not settled by a fault", job_id=job_id)
            self.unsettled = True
            raise Unfinished from None
        finally:
            self._ended(run)

    async def _perform(self, run: JobRun) -> None:
        job = run.job
        try:
            if run.reason is not None:
                raise Unfinished
            kind = self._catalogue.get(job.type)
            result = await kind.run(run, self._catalogue.read(job.type, job.input))
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
                self.holds.put(job.type, (midnight - local).total_seconds(), run.error.detail)
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
            max_attempts=self._limits.max_attempts,
            first_pause_s=self._limits.first_pause_s,
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
                self.holds.put(job.type, verdict.wait_s, error.detail)
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

    def _not_settled(self, error: CouncilError) -> None:
        """The row could not be written: it is put back as soon as rows can be."""
        self.unsettled = True
        _log.warning("job not settled yet", code=error.code, detail=error.detail)
