"""The council as a service: asks, resumes, watches, cancels, retries and forgets sessions."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec

from common.errors import (
    ConflictError,
    InvalidRequestError,
    ModelUnavailableError,
    QueueFullError,
)
from common.logs import get_logger
from common.settings import MasterSettings
from common.telemetry import TraceContext
from master.cluster.dispatch import Dispatcher
from master.cluster.registry import Registry
from master.council.choice import Candidate, choose_agents, choose_chairman
from master.council.plan import SessionPlan, Turn, seats_of
from master.council.runner import SessionRunner
from master.council.session import Session
from master.council.states import State
from master.council.view import CouncilSession, view
from master.state.sessions import StoredSession
from master.state.store import Store

if TYPE_CHECKING:
    from master.api.schemas import CreateSession

_log = get_logger(__name__)
_FIRST_MODELS_S = 30.0


class CouncilService:
    """Sessions that run, and those that ended a short while ago; all others are read from the store."""

    def __init__(
        self, *, settings: MasterSettings, store: Store, registry: Registry, dispatcher: Dispatcher
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._dispatcher = dispatcher
        self._runners: dict[str, SessionRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._forget: dict[str, asyncio.TimerHandle] = {}
        self._stopping = False

    # -- life ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Resume what a dead master left; at the end stop the sessions so that they can be resumed."""
        await self._resume_all()
        try:
            yield
        finally:
            self._stopping = True
            for handle in self._forget.values():
                handle.cancel()
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _resume_all(self) -> None:
        for session_id in await self._store.sessions.unfinished():
            await self._store.sessions.interrupt_running(session_id, time.time())
            stored = await self._store.sessions.load(session_id)
            runner = self._runner(self._rebuild(stored), seq_head=stored.seq_head + 1)
            await runner.reserve_seq()
            _log.info("session resumed", session_id=session_id, attempts=len(stored.records))
            fresh = runner.session.state is State.QUEUED
            self._start(runner, runner.session.start() if fresh else [])

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
        body_hash = _hash(request)
        if idempotency_key is not None:
            known = await self._known(idempotency_key, body_hash)
            if known is not None:
                return known
        if self.active >= self._settings.max_active_sessions:
            raise QueueFullError(
                f"{self.active} sessions run already; try again when one has ended", retry_after_s=10.0
            )
        plan = await self._plan(request)
        try:
            await self._store.sessions.create(plan, idempotency_key=idempotency_key, body_hash=body_hash)
        except ConflictError:
            known = await self._known(idempotency_key, body_hash) if idempotency_key is not None else None
            if known is None:
                raise
            return known
        session = Session(plan)
        runner = self._runner(session, seq_head=0, trace=TraceContext.parse(traceparent))
        await runner.reserve_seq()
        self._start(runner, session.start())
        return runner, runner.view()

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

    async def _plan(self, request: CreateSession) -> SessionPlan:
        candidates = await self._candidates()
        chosen = request.agents
        if chosen is None:
            names = choose_agents(candidates, self._settings.default_agents)
            if not names:
                raise ModelUnavailableError(
                    "the cluster has no model yet; add a node with `council worker add`, or a model with "
                    "`council models pull`"
                )
            pairs: list[tuple[str, str | None]] = [(name, None) for name in names]
        else:
            pairs = [(one.model, one.persona or None) for one in chosen]
        seats = seats_of(pairs)
        models = [seat.model for seat in seats]
        chairman = request.chairman or choose_chairman(candidates, models, self._settings.ollama_model)
        if chairman is None:
            raise AssertionError("a council has seats, and so a chairman")
        needed = list(dict.fromkeys([*models, chairman]))
        missing = [name for name in needed if not self._registry.nodes_with(name)]
        if missing:
            have = ", ".join(sorted(one.name for one in candidates)) or "none"
            raise ModelUnavailableError(
                f"no node has {', '.join(missing)}; the cluster has: {have}. "
                "Fetch a model with `council models pull NAME`",
                model=missing[0],
            )
        if request.quorum is not None and request.quorum > len(seats):
            raise InvalidRequestError(f"a quorum of {request.quorum} cannot be met by {len(seats)} agents")
        conversation_id = str(request.conversation_id) if request.conversation_id else None
        history: tuple[Turn, ...] = ()
        if conversation_id is not None:
            turns = await self._store.sessions.history(conversation_id)
            history = tuple(Turn(question, answer) for question, answer in turns)
        everyone = [*needed, *request.chairman_fallbacks]
        return SessionPlan(
            session_id=str(uuid4()),
            conversation_id=conversation_id or str(uuid4()),
            question=request.question,
            seats=seats,
            chairman=chairman,
            chairman_fallbacks=tuple(request.chairman_fallbacks),
            quorum=request.quorum or 1,
            history=history,
            options=request.options.as_dict(),
            contexts=self._contexts(everyone),
            created_at=time.time(),
            practice=any(self._is_practice(name) for name in needed),
        )

    async def _candidates(self) -> list[Candidate]:
        """Models of the answering nodes; right after a start it waits for the nodes' first answers."""
        await self._registry.settled(_FIRST_MODELS_S)
        found: dict[str, Candidate] = {}
        for node in self._registry.nodes.values():
            for model in node.models if node.answers and not node.draining else ():
                known = found.get(model.name)
                found[model.name] = Candidate(
                    model.name,
                    model.size,
                    model.resident or (known is not None and known.resident),
                    not model.capabilities or "completion" in model.capabilities,
                )
        return list(found.values())

    def _contexts(self, models: list[str]) -> dict[str, int]:
        """The smallest slot that each model may meet in the cluster, in tokens."""
        contexts: dict[str, int] = {}
        for name in models:
            sizes = [
                model.context_length
                for node in self._registry.nodes_with(name)
                if (model := node.model(name)) is not None
            ]
            if sizes:
                contexts[name] = min(sizes)
        return contexts

    def _is_practice(self, name: str) -> bool:
        return any(
            model.practice
            for node in self._registry.nodes_with(name)
            if (model := node.model(name)) is not None
        )

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
        if task is None:
            return True
        done, _ = await asyncio.wait((task,), timeout=within_s)
        return bool(done)

    async def cancel(self, session_id: str) -> CouncilSession:
        """End a session; one that has ended is a `ConflictError`."""
        runner = self._runners.get(session_id)
        task = self._tasks.get(session_id)
        if runner is None or task is None:
            current = await self.get(session_id)
            raise ConflictError(f"the session has ended already ({current.state})")
        runner.cancel()
        await asyncio.wait((task,), timeout=10.0)
        return runner.view()

    async def retry(self, session_id: str, agent_id: str) -> CouncilSession:
        """Open run + 1 for one agent, or for the chairman. Raises `ConflictError` while the session runs."""
        if session_id in self._tasks:
            raise ConflictError("the session still runs; cancel it or wait for its end")
        runner = self._runners.get(session_id)
        if runner is None:
            stored = await self._store.sessions.load(session_id)
            runner = self._runner(self._rebuild(stored), seq_head=stored.seq_head + 1)
            await runner.reserve_seq()
        if self.active >= self._settings.max_active_sessions:
            raise QueueFullError(f"{self.active} sessions run already", retry_after_s=10.0)
        # On a copy: where the run cannot be opened (a busy conversation, a full disk), nothing has moved.
        reopened = copy.deepcopy(runner.session)
        events = reopened.retry(agent_id)
        await self._store.sessions.reopen(session_id, reopened.run, agent_id)
        runner.reopened(reopened)
        self._start(runner, events)
        return runner.view()

    async def delete(self, session_id: str) -> None:
        """Forget a session for good; a running one is cancelled first."""
        if session_id in self._tasks:
            await self.cancel(session_id)
        await self._store.sessions.delete(session_id)
        self._drop(session_id)

    async def delete_conversation(self, conversation_id: str) -> None:
        """Forget a conversation with its sessions. Raises `ConflictError` while one of them runs."""
        for runner in self._runners.values():
            if runner.session.plan.conversation_id == conversation_id and runner.id in self._tasks:
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
