"""The council as a service: asks, resumes, watches, cancels, retries and forgets sessions."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from common.errors import (
    ConflictError,
    InvalidRequestError,
    NodeDrainingError,
    QueueFullError,
)
from common.logs import get_logger
from common.master_settings import MasterSettings
from common.telemetry import TraceContext
from master.cluster.dispatch import Dispatcher
from master.cluster.registry import Registry
from master.council import cached
from master.council.plan import SessionPlan
from master.council.planning import Planner
from master.council.runner import SessionRunner
from master.council.session import Session
from master.council.states import State
from master.council.view import CouncilSession, view
from master.state.sessions import SessionMovedError, StoredSession
from master.state.store import Store

if TYPE_CHECKING:
    from master.api.schemas import CreateSession

_ELSEWHERE_POLL_S = 0.3
_log = get_logger(__name__)


class CouncilService:
    """Sessions that run, and those that ended a short while ago; all others are read from the store."""

    def __init__(
        self,
        *,
        settings: MasterSettings,
        store: Store,
        registry: Registry,
        dispatcher: Dispatcher,
        lives: Callable[[str], bool] | None = None,
    ) -> None:
        """`lives`: whether a master of that id lives, where several share the database."""
        self._settings = settings
        self._store = store
        self._dispatcher = dispatcher
        self._planner = Planner(settings, registry, store.sessions)
        self._runners: dict[str, SessionRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._forget: dict[str, asyncio.TimerHandle] = {}
        self._opening: dict[object, SessionPlan] = {}  # let in, and not started yet
        self._stopping = False
        self._lives = lives

    # -- life ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Resume what a dead master left; at the end stop the sessions so that they can be resumed."""
        await self.take_over()
        try:
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Stop the sessions so that they can be resumed, and let go of all who watch or wait. Safe twice."""
        self._stopping = True
        for handle in self._forget.values():
            handle.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runner in self._runners.values():
            runner.log.interrupt()
        self._dispatcher.stop()

    async def take_over(self) -> None:
        """Go on with every session whose master is dead, and let go of those that another has taken over."""
        sessions = self._store.sessions
        if self._lives is None:
            found = await sessions.unfinished()
        else:
            await self._let_go()
            owners = await sessions.owners()
            dead = [owner for owner in owners if owner is None or not self._lives(owner)]
            found = [session_id for owner in dead for session_id in await sessions.claim(owner)]
        for session_id in found:
            if not self._stopping:
                await self._resume(session_id)

    async def _resume(self, session_id: str) -> None:
        await self._store.sessions.interrupt_running(session_id, time.time())
        stored = await self._store.sessions.load(session_id)
        runner = self._runner(self._rebuild(stored), seq_head=stored.seq_head + 1)
        await runner.reserve_seq()
        _log.info("session resumed", session_id=session_id, attempts=len(stored.records))
        fresh = runner.session.state is State.QUEUED
        self._start(runner, runner.session.start() if fresh else [])

    async def _let_go(self) -> None:
        """This master was taken for dead: what others have now ends here, and whoever watches finds them."""
        for session_id in await self._store.sessions.moved(tuple(self._tasks)):
            task, runner = self._tasks.get(session_id), self._runners.get(session_id)
            if task is None or runner is None:
                continue
            _log.warning("session taken over by another master", session_id=session_id)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._moved(runner)

    def _moved(self, runner: SessionRunner) -> None:
        self._drop(runner.id)
        runner.log.interrupt()

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise NodeDrainingError("the master is stopping; ask again when it is back", retry_after_s=5.0)

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    @property
    def active(self) -> int:
        return len(self._tasks)

    # -- asking -------------------------------------------------------------------------------------------

    async def create(
        self, request: CreateSession, *, idempotency_key: str | None = None, traceparent: str | None = None
    ) -> tuple[SessionRunner | None, CouncilSession]:
        """Open a session and start it. A repeated key gives the session that it opened before.

        Raises `ModelUnavailableError`, `ConflictError` (the conversation is busy), `InvalidRequestError`
        (the key was used with another body), `QueueFullError`.
        """
        self._refuse_when_stopping()
        body_hash = _hash(request)
        if idempotency_key is not None:
            known = await self._known(idempotency_key, body_hash)
            if known is not None:
                return known
        plan = await self._planner.plan(request)
        with self._place(plan):
            return await self._open(plan, request, idempotency_key, body_hash, traceparent)

    async def _open(
        self,
        plan: SessionPlan,
        request: CreateSession,
        idempotency_key: str | None,
        body_hash: str,
        traceparent: str | None,
    ) -> tuple[SessionRunner | None, CouncilSession]:
        cache_key = cached.key_of(plan) if request.cache else None
        try:
            await self._store.sessions.create(
                plan, idempotency_key=idempotency_key, body_hash=body_hash, cache_key=cache_key
            )
        except ConflictError:
            known = await self._known(idempotency_key, body_hash) if idempotency_key is not None else None
            if known is None:
                raise
            return known
        if cache_key is not None:
            given_again = await self._give_again(plan, cache_key)
            if given_again is not None:
                return None, given_again
        session = Session(plan)
        runner = self._runner(session, seq_head=0, trace=TraceContext.parse(traceparent))
        await runner.reserve_seq()
        self._start(runner, session.start())
        return runner, runner.view()

    @contextmanager
    def _place(self, plan: SessionPlan) -> Iterator[None]:
        """A place among the sessions and in the queue of calls, held while a session is being opened.

        Whoever has one is served: a flood is refused here, and not later by failing seats.
        """
        running = len(self._tasks) + len(self._opening)
        if running >= self._settings.max_active_sessions:
            raise QueueFullError(
                f"{running} sessions run already; try again when one has ended", retry_after_s=10.0
            )
        starting = [self._runners[one].session.plan for one in self._tasks if not self._runners[one].begun]
        coming = sum(len(one.seats) for one in (*starting, *self._opening.values()))
        self._dispatcher.lanes.check_room(plan.seats[0].model, time.monotonic(), coming=coming)
        place = object()
        self._opening[place] = plan
        try:
            yield
        finally:
            del self._opening[place]

    async def _give_again(self, plan: SessionPlan, cache_key: str) -> CouncilSession | None:
        """The result of an equal council that was asked before, as a session of its own that cost nothing."""
        found = await self._store.sessions.cached_result(cache_key)
        if found is None or found.snapshot is None:
            return None
        shown = cached.copy_of(CouncilSession.model_validate(found.snapshot), plan, time.time())
        await self._store.sessions.set_state(
            shown.id,
            shown.state,
            result=shown.result,
            completed_at=shown.completed_at,
            snapshot=shown.model_dump(mode="json"),
            answer=shown.answer,
            cached=True,
        )
        return shown

    async def _known(
        self, idempotency_key: str, body_hash: str
    ) -> tuple[SessionRunner | None, CouncilSession] | None:
        known = await self._store.sessions.by_idempotency_key(idempotency_key)
        if known is None:
            return None
        session_id, known_hash = known
        if known_hash != body_hash:
            raise InvalidRequestError("this Idempotency-Key was used with another body; use a new one")
        return self._runners.get(session_id), await self.get(session_id)

    # -- sessions that are there --------------------------------------------------------------------------

    async def get(self, session_id: str) -> CouncilSession:
        """The session as it stands. Raises `NotFoundError`."""
        runner = self._runners.get(session_id)
        if runner is not None:
            return runner.view()
        return self._stored_view(await self._store.sessions.load(session_id))

    def runner(self, session_id: str) -> SessionRunner | None:
        """The session's runner while it runs and for a while after."""
        return self._runners.get(session_id)

    async def ended(self, session_id: str, within_s: float) -> bool:
        """Wait for the end, at most so long; hanging up cancels nothing."""
        task = self._tasks.get(session_id)
        if task is not None:
            await asyncio.wait((task,), timeout=within_s)
        elif self._lives is not None and session_id not in self._runners:
            return await self._ended_elsewhere(session_id, within_s)
        runner = self._runners.get(session_id)
        return runner is None or (runner.log.ended and runner.session.is_over)

    async def _ended_elsewhere(self, session_id: str, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not (await self._store.sessions.owner_of(session_id))[1]:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_ELSEWHERE_POLL_S)
        return True

    async def cancel(self, session_id: str) -> CouncilSession:
        """End a session; one that has ended is a `ConflictError`."""
        runner = self._runners.get(session_id)
        task = await self._running(session_id)
        if runner is None or task is None:
            current = await self.get(session_id)
            raise ConflictError(f"the session has ended already ({current.state})")
        runner.cancel()
        await asyncio.wait((task,), timeout=10.0)
        return runner.view()

    async def _running(self, session_id: str) -> asyncio.Task[None] | None:
        """The task of a session that has not told its end; one that only tidies up is waited for."""
        task = self._tasks.get(session_id)
        runner = self._runners.get(session_id)
        if task is not None and runner is not None and runner.log.ended:
            await asyncio.wait((task,))
            return None
        return task

    async def retry(self, session_id: str, agent_id: str) -> CouncilSession:
        """Open run + 1 for one agent, or for the chairman. Raises `ConflictError` while the session runs."""
        self._refuse_when_stopping()
        if await self._running(session_id):
            raise ConflictError("the session still runs; cancel it or wait for its end")
        runner = self._runners.get(session_id)
        if runner is None:
            stored = await self._store.sessions.load(session_id)
            if stored.cached:
                raise ConflictError("this result came from the cache and has no calls; ask again without it")
            runner = self._runner(self._rebuild(stored), seq_head=stored.seq_head + 1)
            await runner.reserve_seq()
        # On a copy: where the run cannot be opened (a busy conversation, a full disk), nothing has moved.
        reopened = copy.deepcopy(runner.session)
        events = reopened.retry(agent_id)
        with self._place(reopened.plan):
            await self._store.sessions.reopen(session_id, reopened.run, agent_id)
            runner.reopened(reopened)
            self._start(runner, events)
        return runner.view()

    async def delete(self, session_id: str) -> None:
        """Forget a session for good; a running one is cancelled first."""
        if await self._running(session_id):
            await self.cancel(session_id)
        await self._store.sessions.delete(session_id)
        self._drop(session_id)

    async def delete_conversation(self, conversation_id: str) -> None:
        """Forget a conversation with its sessions. Raises `ConflictError` while one of them runs."""
        for runner in list(self._runners.values()):
            ours = runner.session.plan.conversation_id == conversation_id
            if ours and await self._running(runner.id):
                raise ConflictError("a session of this conversation still runs; cancel it first")
        await self._store.sessions.delete_conversation(conversation_id)
        for session_id, runner in list(self._runners.items()):
            if runner.session.plan.conversation_id == conversation_id:
                self._drop(session_id)

    # -- runners ------------------------------------------------------------------------------------------

    def _runner(self, session: Session, *, seq_head: int, trace: TraceContext | None = None) -> SessionRunner:
        runner = SessionRunner(
            session,
            store=self._store.sessions,
            dispatcher=self._dispatcher,
            seq_head=seq_head,
            trace=trace,
        )
        return runner

    def _start(self, runner: SessionRunner, first_events: list[dict[str, Any]]) -> None:
        if self._stopping:  # since it was let in: it is kept, and goes on when the master is back
            runner.log.interrupt()
            return
        handle = self._forget.pop(runner.id, None)
        if handle is not None:
            handle.cancel()
        self._runners[runner.id] = runner
        task = asyncio.create_task(runner.run(first_events), name=f"session {runner.id}")
        self._tasks[runner.id] = task
        task.add_done_callback(lambda done: self._ended(runner, done))

    def _ended(self, runner: SessionRunner, task: asyncio.Task[None]) -> None:
        self._tasks.pop(runner.id, None)
        if self._stopping or task.cancelled():
            return
        error = task.exception()
        if isinstance(error, SessionMovedError):
            self._moved(runner)
            return
        if error is not None:
            _log.error("session crashed", session_id=runner.id, exc_info=error)
            runner.log.publish(
                {"type": "warning", "text": "the session stopped because of an internal error"}
            )
            runner.log.end()
        loop = asyncio.get_running_loop()
        retention = self._settings.event_retention_s
        self._forget[runner.id] = loop.call_later(retention, self._drop, runner.id)

    def _drop(self, session_id: str) -> None:
        handle = self._forget.pop(session_id, None)
        if handle is not None:
            handle.cancel()
        self._runners.pop(session_id, None)

    def _rebuild(self, stored: StoredSession) -> Session:
        return Session.resume(stored.plan, stored.records, stored.retries, cancelled=stored.cancelled)

    def _stored_view(self, stored: StoredSession) -> CouncilSession:
        if stored.snapshot is not None:
            return CouncilSession.model_validate(stored.snapshot)
        completed = stored.completed_at.timestamp() if stored.completed_at else None
        return view(self._rebuild(stored), completed_at=completed)

    async def stored_head(self, session_id: str) -> int:
        """The last event number that may have been used by a session that is no longer held."""
        return (await self._store.sessions.load(session_id)).seq_head


def _hash(request: CreateSession) -> str:
    return hashlib.sha256(msgspec.json.encode(request.model_dump(mode="json"), order="sorted")).hexdigest()
