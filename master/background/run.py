"""One run of one job, from the moment an executor took it up until it gives it back: the job's context."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Literal, NoReturn, Protocol, TypeVar

from common import errors
from common.protocol import Channel
from common.usage import CallLatency, TokenUsage
from master.background.caps import Caps, midnight_before
from master.background.job import BackgroundCall, Json
from master.background.verdict import judge
from master.cluster.calls import Answer, AttemptFailure, Call, CallWatcher
from master.state.durable import Durable, Unfinished
from master.state.job_calls import CallKey, JobCallRepository
from master.state.jobs import Job
from master.state.store import Store

Reason = Literal["cancelled", "stopping", "gate", "cap", "failed", "lost"]
GATE_PATIENCE_S = 5.0
Value = TypeVar("Value", bound=Json)


class Model(Protocol):
    """Where a job's calls go: `BackgroundCalls` in the master, the master itself for a worker process."""

    async def run(self, call: Call, watcher: CallWatcher) -> Answer: ...


class GateVerdict(Protocol):
    @property
    def open(self) -> bool: ...

    @property
    def reason(self) -> str: ...


class Gate(Protocol):
    """When background work may go on; see `Gatekeeper`."""

    async def passed(self, node: str | None = None, *, long: bool = False) -> None: ...

    def verdict(self, node: str | None = None, *, long: bool = False) -> GateVerdict: ...

    def changes(self) -> AbstractContextManager[asyncio.Event]: ...


class JobRun:
    """The `JobContext` of a running job."""

    def __init__(
        self, job: Job, *, owner: str, store: Store, durable: Durable, model: Model, gate: Gate, caps: Caps
    ) -> None:
        self.job = job
        self.owner = owner
        self.task: asyncio.Task[None] | None = None
        self.reason: Reason | None = None
        self.error: errors.CouncilError | None = None
        self.ended = asyncio.Event()
        self.got_on = False
        self._store = store
        self._durable = durable
        self._model = model
        self._gate = gate
        self._caps = caps

    @property
    def job_id(self) -> str:
        return self.job.id

    @property
    def store(self) -> Store:
        return self._store

    def stop(self, reason: Reason) -> None:
        """End the job where it is, down to the engine of a model call. The first reason counts."""
        if self.reason is None:
            self.reason = reason
            if self.task is not None:
                self.task.cancel()

    async def step(self, name: str, do: Callable[[], Awaitable[Value]]) -> Value:
        """See `JobContext.step`. A failure that may pass ends this run and is not recorded."""

        async def once() -> Value:
            try:
                return await do()
            except errors.CouncilError as error:
                if self._may_pass(error):
                    self._leave("failed", error)
                raise

        return await self._durable.step(name, once)

    def _may_pass(self, error: errors.CouncilError) -> bool:
        verdict = judge(error, attempts=0, pauses=0, max_attempts=2, first_pause_s=1.0, chance=0.0)
        return verdict.kind != "dead"

    def _leave(self, reason: Reason, error: errors.CouncilError | None = None) -> NoReturn:
        if self.reason is None:
            self.reason, self.error = reason, error
        raise Unfinished

    async def generate(self, call: BackgroundCall) -> Answer:
        """See `JobContext.generate`. Every attempt leaves a row before it goes out."""
        await self._wait_for_gate()
        try:
            return await kept_call(self._model, self._store.job_calls, self._caps, self.job, self.owner, call)
        except errors.CapReachedError as error:
            self._leave("cap", error)

    async def _wait_for_gate(self) -> None:
        """A short closure is waited for here; for a longer one the job gives its place back."""
        try:
            async with asyncio.timeout(GATE_PATIENCE_S):
                await self._gate.passed(long=self.job.long)
        except TimeoutError:
            self._leave("gate")

    async def progress(self, done: int, total: int, note: str = "") -> None:
        """See `JobContext.progress`."""
        if not await self._store.job_queue.progress(self.job.id, self.owner, done, total, note):
            self._leave("lost")
        self.got_on = True


async def kept_call(
    model: Model, rows: JobCallRepository, caps: Caps, job: Job, owner: str, call: BackgroundCall
) -> Answer:
    """One model call of a job, with a row for each of its attempts. Raises `CapReachedError` as well."""
    if caps.any:
        spent = await rows.spent(since=midnight_before(datetime.now()).timestamp())
        reason = caps.reason(calls=spent.calls, tokens=spent.total_tokens)
        if reason is not None:
            raise errors.CapReachedError(reason)
    asked = Call(
        f"job/{job.id}/{uuid.uuid4().hex[:12]}",
        call.model or "",
        call.messages,
        call.format,
        call.options,
        call.think,
        call_class="background",
        prefix_key=call.prefix_key,
        expected_tokens=call.expected_tokens,
    )
    keeper = CallKeeper(rows, job, owner, asked.model)
    try:
        answer = await model.run(asked, keeper)
    except BaseException as error:
        await keeper.cut(error)
        raise
    await keeper.done(answer)
    return answer


def job_of(call: Call) -> str:
    """The id of the job that a call of `kept_call` belongs to."""
    return call.call_id.split("/")[1]


class CallKeeper:
    """Watches one call of a job and keeps a row of each of its attempts."""

    def __init__(self, rows: JobCallRepository, job: Job, owner: str, model: str) -> None:
        self._rows = rows
        self._job = job
        self._owner = owner
        self._model = model
        self._id = str(uuid.uuid4())
        self._attempts = 0
        self._open: CallKey | None = None

    def queued(self, position: int, estimate_s: float | None = None) -> None:
        del position, estimate_s

    async def attempt_started(self, node: str) -> None:
        self._attempts += 1
        key = CallKey(self._id, self._attempts)
        await self._rows.begin(
            key,
            job_id=self._job.id,
            run=self._job.run,
            owner=self._owner,
            model=self._model,
            node=node,
            at=time.time(),
        )
        self._open = key

    def running(self, node: str) -> None:
        del node

    async def delta(self, channel: Channel, text: str) -> None:
        del channel, text

    async def attempt_failed(self, failure: AttemptFailure, *, will_restart: bool) -> None:
        await self._close(
            "restarted" if will_restart else "failed",
            failure.token_usage,
            failure.latency,
            error=failure.error.to_problem(),
        )

    async def done(self, answer: Answer) -> None:
        await self._close("done", answer.token_usage, answer.latency, model=answer.model)

    async def cut(self, error: BaseException) -> None:
        """The call ended without having told: it was cancelled, or its row could not be written."""
        if self._open is not None:
            problem = error.to_problem() if isinstance(error, errors.CouncilError) else None
            await self._close("interrupted", TokenUsage(), CallLatency(), error=problem, unknown=True)

    async def _close(
        self,
        outcome: str,
        usage: TokenUsage,
        latency: CallLatency,
        *,
        error: dict[str, object] | None = None,
        unknown: bool = False,
        model: str = "",
    ) -> None:
        key, self._open = self._open, None
        if key is not None:
            await self._rows.end(
                key,
                outcome,
                usage,
                latency,
                at=time.time(),
                error=error,
                usage_unknown=unknown,
                model=model,
            )
