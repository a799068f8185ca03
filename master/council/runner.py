"""The thin shell of one session: runs the calls that the pure core says are due, commits what comes back,
and tells the watchers. Each result is committed before anybody hears of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from common.errors import CouncilError, InternalError, NodeUnreachableError, RetryableError
from common.logs import bind, get_logger
from common.protocol import Channel
from common.telemetry import TraceContext
from common.usage import CallLatency, TokenUsage
from master.cluster.calls import Answer, AttemptFailure, Call
from master.cluster.dispatch import Dispatcher
from master.council.calls import DueCall, kept_models
from master.council.events import BLOCK, EventLog
from master.council.plan import AttemptRecord, Outcome
from master.council.session import Session
from master.council.view import CouncilSession, view
from master.metrics import SESSIONS, SESSIONS_ACTIVE, TOKENS
from master.state.sessions import SessionRepository

_log = get_logger(__name__)


class SessionRunner:
    """One session from now to its end: the task of `run` owns the pure session, calls are its children."""

    def __init__(
        self,
        session: Session,
        *,
        store: SessionRepository,
        dispatcher: Dispatcher,
        seq_head: int,
        trace: TraceContext | None = None,
    ) -> None:
        self.session = session
        self.id = session.plan.session_id
        self.partial: dict[tuple[str, str], dict[Channel, list[str]]] = {}
        self._low = asyncio.Event()
        self.log = EventLog(self.id, head=seq_head, snapshot=self.snapshot, on_low=self._low.set)
        self._store = store
        self._dispatcher = dispatcher
        self._trace = trace or TraceContext.new()
        self._changed = asyncio.Event()
        self._lost: set[str] = set()  # nodes that a call of this session has waited for in vain
        self._cancelled = False
        self._unsaved = False
        self._saved_state = ""
        self._last_events: list[dict[str, Any]] = []
        self.completed_at: float | None = None
        self.begun = False  # its first calls wait for their slots, or have them

    # -- what others may ask ------------------------------------------------------------------------------

    def view(self) -> CouncilSession:
        return view(self.session, completed_at=self.completed_at)

    def snapshot(self) -> dict[str, Any]:
        """The session as it stands and the text of the calls that run: `{session, partial}`."""
        partial: dict[str, dict[str, dict[str, str]]] = {}
        for (stage, agent_id), channels in self.partial.items():
            texts: dict[str, str] = {channel: "".join(parts) for channel, parts in channels.items()}
            partial.setdefault(stage, {})[agent_id] = texts
        return {"session": self.view().model_dump(mode="json"), "partial": partial}

    def cancel(self) -> None:
        """Stop every call and end the session as cancelled. Does nothing once it has ended."""
        self._cancelled = True
        self._changed.set()

    def reopened(self, session: Session) -> None:
        """Go on with a core that was given a retry; a cancellation of the last run is forgotten."""
        self.session = session
        self._cancelled = False
        self._lost.clear()
        self._saved_state = ""
        self.completed_at = None
        self.log.reopen()

    # -- the run ------------------------------------------------------------------------------------------

    async def run(self, first_events: list[dict[str, Any]]) -> None:
        """Drive the session to an end, telling `first_events` (a start, a reopening, or nothing) first.

        Cancelling this task (a master that stops) leaves the session resumable.
        """
        SESSIONS_ACTIVE.inc()
        keeper = asyncio.create_task(self._keep_reserving())
        try:
            with bind(session_id=self.id, trace_id=self._trace.trace_id):
                self._publish(first_events)
                await self._drive()
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            SESSIONS_ACTIVE.dec()

    async def reserve_seq(self) -> None:
        """Persist the next block of event numbers; the first one before anything is published."""
        up_to = self.log.head + BLOCK
        await self._store.reserve_seq(self.id, up_to)
        self.log.grant(up_to)

    async def _drive(self) -> None:
        calls: set[asyncio.Task[None]] = set()
        try:
            while not self.session.state.is_over:
                if self._cancelled:
                    # Kept before the calls are stopped: a master that dies over them must not resume.
                    await self._commit(lambda: self._store.cancelling(self.id))
                    await _cancel_all(calls)
                    self._publish(self.session.cancel())
                    break
                await self._save_state()
                self.begun = True
                for due in self.session.due():
                    self.session.begin(self._record(due, due.attempt, node=None))
                    task = asyncio.create_task(self._call(due), name=f"{due.stage} {due.agent_id}")
                    calls.add(task)
                    task.add_done_callback(self._call_ended)
                if self.session.state.is_over:
                    break
                await self._changed.wait()
                self._changed.clear()
                for task in [task for task in calls if task.done()]:
                    calls.discard(task)
                    task.result()
        finally:
            await _cancel_all(calls)
        await self._end()

    async def _save_state(self) -> None:
        state = self.session.state.value
        if state != self._saved_state:
            await self._commit(lambda: self._store.set_state(self.id, state))
            self._saved_state = state

    def _call_ended(self, _task: asyncio.Task[None]) -> None:
        self._changed.set()

    async def _end(self) -> None:
        self.completed_at = time.time()
        shown = self.view()
        await self._commit(
            lambda: self._store.set_state(
                self.id,
                shown.state,
                result=shown.result,
                error=shown.error,
                completed_at=datetime.fromtimestamp(self.completed_at or 0.0, UTC),
                snapshot=shown.model_dump(mode="json"),
                answer=shown.answer if shown.state == "completed" else None,
                cancelled=shown.state == "cancelled",
            )
        )
        SESSIONS.labels(result=shown.result or shown.state).inc()
        _log.info("session ended", state=shown.state, result=shown.result)
        self.partial.clear()
        for event in self._last_events:
            self.log.publish(event)
        self._last_events.clear()
        self.log.end()

    # -- one call -----------------------------------------------------------------------------------------

    async def _call(self, due: DueCall) -> None:
        watcher, plan = _SeatWatcher(self, due), self.session.plan
        call = Call(
            call_id=f"{self.id}/{due.run}/{due.stage}/{due.agent_id}/{due.attempt}",
            model=due.model,
            messages=due.messages,
            format=dict(due.format) if due.format is not None else None,
            options=due.options,
            think=due.think,
            session_id=self.id,
            prefix_key=due.prefix_key,
            conversation_key=due.conversation_key,
            expected_tokens=due.expected_tokens,
            keeps=kept_models(due.stage, (seat.model for seat in plan.seats), plan.chairman),
            traceparent=str(self._trace.child()),
            no_node_s=0.0 if self._lost and self._homes(due.model) <= self._lost else None,
            let_in=True,
        )
        try:
            answer = await self._dispatcher.run(call, watcher)
        except asyncio.CancelledError:
            if self._cancelled:
                await self._land(watcher.cancelled())
            raise
        except CouncilError as error:
            if isinstance(error, NodeUnreachableError) and watcher.found_no_node:
                self._lost |= self._homes(due.model)
            await self._land_whole(watcher.failed(error))
        else:
            await self._land_whole(watcher.done(answer))

    def _homes(self, model: str) -> set[str]:
        """The nodes that have the model, here or gone. One wait for them is enough for the whole chain of
        chairmen: their successors, whose models are at the same places, wait no more.
        """
        return {node.name for node in self._dispatcher.registry.nodes_with(model, answering=False)}

    async def _land_whole(self, record: AttemptRecord) -> None:
        """Land the end of a call also where it is cancelled meanwhile: a committed row has to count."""
        landing = asyncio.ensure_future(self._land(record))
        try:
            await asyncio.shield(landing)
        except asyncio.CancelledError:
            await landing
            raise

    async def _land(self, record: AttemptRecord) -> None:
        """Commit a result, then let the core and the watchers know."""
        record = _storable(record)
        await self._commit(lambda: self._store.finish_attempt(self.id, record))
        TOKENS.labels(model=record.model, kind="prompt").inc(record.token_usage.prompt_tokens)
        TOKENS.labels(model=record.model, kind="completion").inc(record.token_usage.completion_tokens)
        if record.outcome in (Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED):
            self.partial.pop((record.stage, record.agent_id), None)
        self._publish(self.session.apply(record))
        self._changed.set()

    def _record(self, due: DueCall, attempt: int, *, node: str | None) -> AttemptRecord:
        return AttemptRecord(
            run=due.run,
            stage=due.stage,
            agent_id=due.agent_id,
            attempt=attempt,
            model=due.model,
            node=node,
            started_at=time.time(),
        )

    # -- telling and keeping ------------------------------------------------------------------------------

    def _publish(self, events: list[dict[str, Any]]) -> None:
        """Tell the watchers. The end itself is told once it is committed, so that nobody asks too early."""
        for event in events:
            if self.session.state.is_over and event["type"] in _LAST_EVENTS:
                self._last_events.append(event)
            else:
                self.log.publish(event)

    async def _commit(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write a row. Where the disk refuses, the session goes on in memory for those who watch it."""
        try:
            await write()
        except RetryableError as error:
            _log.error("session not saved", code=error.code, detail=error.detail)
            if not self._unsaved:
                self._unsaved = True
                self.log.publish(
                    {"type": "warning", "text": f"{error.title}: this session goes on, but is not saved"}
                )

    async def _keep_reserving(self) -> None:
        while True:
            await self._low.wait()
            self._low.clear()
            await self._commit(self.reserve_seq)


_LAST_EVENTS = frozenset({"session.completed", "session.failed", "session.cancelled"})


class _SeatWatcher:
    """What the dispatcher tells of one due call, turned into rows, live states and events."""

    def __init__(self, runner: SessionRunner, due: DueCall) -> None:
        self._runner = runner
        self._due = due
        self._attempt = due.attempt
        self._record: AttemptRecord | None = None
        self._failure: AttemptFailure | None = None
        self._restart: tuple[str, str] | None = None
        self._position: int | None = None
        self._since = time.time()  # waiting for a slot belongs to the attempt's time

    # -- CallWatcher --------------------------------------------------------------------------------------

    def queued(self, position: int, estimate_s: float | None = None) -> None:
        if position == self._position:
            return
        self._position = position
        self._runner.session.note(self._due.stage, self._due.agent_id, "queued")
        guess = {} if estimate_s is None else {"estimate_s": estimate_s}
        self._tell("call.queued", position=position, **guess)

    async def attempt_started(self, node: str) -> None:
        record = replace(self._runner._record(self._due, self._attempt, node=node), started_at=self._since)
        self._runner._lost.discard(node)
        self._record = record
        self._failure = None
        self._runner.partial[(self._due.stage, self._due.agent_id)] = {}
        await self._runner._commit(lambda: self._runner._store.begin_attempt(self._runner.id, record))
        self._runner.session.begin(record)
        if self._restart is not None:
            from_node, reason = self._restart
            self._restart = None
            self._tell("call.restarted", from_node=from_node, to_node=node, reason=reason)

    def running(self, node: str) -> None:
        self._position = None
        self._runner.session.note(self._due.stage, self._due.agent_id, "running", node)
        self._tell("call.started", node=node, model=self._due.model)

    async def delta(self, channel: Channel, text: str) -> None:
        texts = self._runner.partial[(self._due.stage, self._due.agent_id)]
        texts.setdefault(channel, []).append(text)
        self._tell("call.delta", channel=channel, text=text)

    async def attempt_failed(self, failure: AttemptFailure, *, will_restart: bool) -> None:
        self._failure = failure
        if not will_restart:
            return
        await self._runner._land(self._failed_record(Outcome.RESTARTED, failure.error))
        self._restart = (failure.node, failure.error.code)
        self._attempt += 1
        self._since = time.time()
        # What that attempt cost is kept with it: the next one may end before it reaches a node.
        self._record = self._failure = None
        # Open the next attempt before the runner asks what is due, or the call would be due twice.
        self._runner.session.begin(self._begun())

    # -- how it ended -------------------------------------------------------------------------------------

    def done(self, answer: Answer) -> AttemptRecord:
        return replace(
            self._begun(),
            node=answer.node,
            outcome=Outcome.DONE,
            text=answer.text,
            thinking=answer.thinking,
            done_reason=answer.done_reason,
            token_usage=answer.token_usage,
            latency=answer.latency,
            ended_at=time.time(),
        )

    @property
    def found_no_node(self) -> bool:
        """Whether the call ended without a last attempt: it had waited for a node."""
        return self._failure is None

    def failed(self, error: CouncilError) -> AttemptRecord:
        return self._failed_record(Outcome.FAILED, error)

    def cancelled(self) -> AttemptRecord:
        written = self._runner.partial.get((self._due.stage, self._due.agent_id), {})
        texts = written if self._record is not None else {}
        begun = self._begun()
        return replace(
            begun,
            outcome=Outcome.CANCELLED,
            text="".join(texts.get("answer", [])),
            thinking="".join(texts.get("thinking", [])),
            usage_unknown=True,
            token_usage=TokenUsage.of(0, sum(len(parts) for parts in texts.values())),
            latency=CallLatency(total_ms=round((time.time() - begun.started_at) * 1000, 3)),
            ended_at=time.time(),
        )

    def _failed_record(self, outcome: Outcome, error: CouncilError) -> AttemptRecord:
        failure, begun = self._failure, self._begun()
        if failure is None:
            return replace(begun, outcome=outcome, error=error.to_problem(), ended_at=time.time())
        return replace(
            begun,
            node=failure.node,
            outcome=outcome,
            text=failure.text,
            thinking=failure.thinking,
            error=error.to_problem(),
            token_usage=failure.token_usage,
            usage_unknown=failure.token_usage.total_tokens > 0,
            latency=failure.latency,
            ended_at=time.time(),
        )

    def _begun(self) -> AttemptRecord:
        return self._record or self._runner._record(self._due, self._attempt, node=None)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._runner.log.publish(
            {"type": kind, "stage": self._due.stage, "agent_id": self._due.agent_id, **fields}
        )


def _storable(record: AttemptRecord) -> AttemptRecord:
    """Without NUL characters, which models can write and PostgreSQL does not take."""
    if "\x00" not in record.text and "\x00" not in record.thinking:
        return record
    return replace(record, text=record.text.replace("\x00", ""), thinking=record.thinking.replace("\x00", ""))


async def _cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception) and not isinstance(outcome, CouncilError):
            raise InternalError("a call of the session crashed; the log has the details") from outcome
    tasks.clear()
