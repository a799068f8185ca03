"""Sessions, their attempts and their conversations: one transaction per call.

An attempt's result is committed as it lands. Nothing here decides anything: it keeps what the pure core was
told, so that the core can be fed again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from common.errors import ConflictError, InvalidRequestError, NotFoundError
from common.usage import CallLatency, TokenUsage
from master.council.plan import AttemptRecord, Outcome, SessionPlan
from master.council.states import OVER
from master.state.database import Transactions
from master.state.tables import AttemptRow, ConversationRow, RetryRow, SessionRow

_TITLE_CHARS = 120
_LATENCIES = tuple(CallLatency.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """All that a session is rebuilt from. `seq_head`: event numbers up to here may have been used."""

    plan: SessionPlan
    state: str
    result: str | None
    records: tuple[AttemptRecord, ...]
    retries: tuple[tuple[int, str], ...]
    cancelled: bool
    error: dict[str, Any] | None
    seq_head: int
    created_at: datetime
    completed_at: datetime | None
    snapshot: dict[str, Any] | None
    cached: bool


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One line of a list of sessions."""

    id: str
    conversation_id: str
    question: str
    state: str
    result: str | None
    chairman: str
    practice: bool
    cached: bool
    total_tokens: int
    total_duration_ms: float
    created_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    id: str
    title: str
    sessions: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    title: str
    created_at: datetime
    updated_at: datetime
    sessions: list[SessionSummary]


class SessionRepository:
    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    # -- writing ------------------------------------------------------------------------------------------

    async def create(
        self, plan: SessionPlan, *, idempotency_key: str | None = None, body_hash: str | None = None
    ) -> None:
        """Keep a new session, and its conversation when that is new.

        Raises `ConflictError` when the conversation has a running session or the key was used before.
        """
        now = datetime.fromtimestamp(plan.created_at, UTC)
        try:
            async with self._db.write() as db:
                conversation = await db.get(ConversationRow, plan.conversation_id)
                if conversation is None:
                    title = " ".join(plan.question.split())[:_TITLE_CHARS]
                    db.add(
                        ConversationRow(id=plan.conversation_id, title=title, created_at=now, updated_at=now)
                    )
                    await db.flush()
                else:
                    conversation.updated_at = now
                db.add(
                    SessionRow(
                        id=plan.session_id,
                        conversation_id=plan.conversation_id,
                        question=plan.question,
                        plan=plan.to_json(),
                        state="queued",
                        over=False,
                        created_at=now,
                        idempotency_key=idempotency_key,
                        body_hash=body_hash,
                    )
                )
        except IntegrityError as error:
            raise ConflictError("a session of this conversation still runs; wait for its end") from error

    async def by_idempotency_key(self, key: str) -> tuple[str, str] | None:
        """The session that a key opened, and the hash of the body that came with it."""
        async with self._db.read() as db:
            found = (
                await db.execute(
                    select(SessionRow.id, SessionRow.body_hash).where(SessionRow.idempotency_key == key)
                )
            ).first()
        return None if found is None else (found[0], found[1] or "")

    async def begin_attempt(self, session_id: str, record: AttemptRecord) -> None:
        """Keep that a call goes out, before it does."""
        await self._put(session_id, record)

    async def finish_attempt(self, session_id: str, record: AttemptRecord) -> None:
        """Keep how an attempt ended."""
        await self._put(session_id, record)

    async def _put(self, session_id: str, record: AttemptRecord) -> None:
        async with self._db.write() as db:
            await db.merge(_row(session_id, record))

    async def reserve_seq(self, session_id: str, up_to: int) -> None:
        """Event numbers up to this one count as used from now on."""
        async with self._db.write() as db:
            await db.execute(update(SessionRow).where(SessionRow.id == session_id).values(seq_head=up_to))

    async def set_state(
        self,
        session_id: str,
        state: str,
        *,
        result: str | None = None,
        error: dict[str, Any] | None = None,
        completed_at: datetime | None = None,
        snapshot: dict[str, Any] | None = None,
        answer: str | None = None,
        cancelled: bool = False,
    ) -> None:
        """Keep where a session stands; with its snapshot once it has ended."""
        over = state in OVER
        values: dict[str, Any] = {"state": state, "over": over}
        if over:
            shown = snapshot or {}
            values |= {
                "result": result,
                "error": error,
                "completed_at": completed_at,
                "snapshot": snapshot,
                "answer": answer,
                "cancelled": cancelled,
                "total_tokens": shown.get("token_usage", {}).get("total_tokens", 0),
                "total_duration_ms": shown.get("latency_stats", {}).get("total_duration_ms", 0.0),
            }
        async with self._db.write() as db:
            await db.execute(update(SessionRow).where(SessionRow.id == session_id).values(**values))

    async def cancelling(self, session_id: str) -> None:
        """Keep that a session is being cancelled: whatever happens now, it ends as that."""
        async with self._db.write() as db:
            await db.execute(update(SessionRow).where(SessionRow.id == session_id).values(cancelled=True))

    async def reopen(self, session_id: str, run: int, agent_id: str) -> None:
        """Keep that a run was opened for an agent. Raises `ConflictError` when the conversation is busy."""
        values = {
            "state": "opinions",
            "over": False,
            "cancelled": False,
            "snapshot": None,
            "completed_at": None,
        }
        try:
            async with self._db.write() as db:
                db.add(RetryRow(session_id=session_id, run=run, agent_id=agent_id))
                await db.execute(update(SessionRow).where(SessionRow.id == session_id).values(**values))
        except IntegrityError as error:
            raise ConflictError("another session of this conversation runs; wait for its end") from error

    async def interrupt_running(self, session_id: str, at: float) -> None:
        """Mark the calls that were killed with the master: their usage is unknown."""
        async with self._db.write() as db:
            await db.execute(
                update(AttemptRow)
                .where(AttemptRow.session_id == session_id, AttemptRow.outcome == Outcome.RUNNING.value)
                .values(outcome=Outcome.INTERRUPTED.value, usage_unknown=True, ended_at=at)
            )

    async def delete(self, session_id: str) -> None:
        """Forget a session, and its conversation when that was the last of it. Raises `NotFoundError`."""
        async with self._db.write() as db:
            row = await db.get(SessionRow, session_id)
            if row is None:
                raise _no_session(session_id)
            conversation_id = row.conversation_id
            await db.delete(row)
            await db.flush()
            others = await db.scalar(
                select(func.count()).where(SessionRow.conversation_id == conversation_id)
            )
            conversation = await db.get(ConversationRow, conversation_id)
            if not others and conversation is not None:
                await db.delete(conversation)

    async def delete_conversation(self, conversation_id: str) -> None:
        """Forget a conversation with all its sessions. Raises `NotFoundError`."""
        async with self._db.write() as db:
            row = await db.get(ConversationRow, conversation_id)
            if row is None:
                raise _no_conversation(conversation_id)
            await db.delete(row)

    # -- reading ------------------------------------------------------------------------------------------

    async def load(self, session_id: str) -> StoredSession:
        """A session with all its rows. Raises `NotFoundError`."""
        async with self._db.read() as db:
            row = await db.get(SessionRow, session_id)
            if row is None:
                raise _no_session(session_id)
            attempts = await db.scalars(
                select(AttemptRow)
                .where(AttemptRow.session_id == session_id)
                .order_by(AttemptRow.run, AttemptRow.started_at, AttemptRow.attempt)
            )
            retries = await db.scalars(
                select(RetryRow).where(RetryRow.session_id == session_id).order_by(RetryRow.run)
            )
            return StoredSession(
                plan=SessionPlan.from_json(row.plan),
                state=row.state,
                result=row.result,
                records=tuple(_record(one) for one in attempts),
                retries=tuple((one.run, one.agent_id) for one in retries),
                cancelled=row.cancelled,
                error=row.error,
                seq_head=row.seq_head,
                created_at=row.created_at,
                completed_at=row.completed_at,
                snapshot=row.snapshot,
                cached=row.cached,
            )

    async def unfinished(self) -> list[str]:
        """Sessions that were running when their master stopped, the oldest first."""
        async with self._db.read() as db:
            found = await db.scalars(
                select(SessionRow.id).where(SessionRow.over.is_(False)).order_by(SessionRow.created_at)
            )
            return list(found)

    async def list(
        self, *, q: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[SessionSummary], str | None]:
        """Sessions with every word of `q` in question or answer, newest first, and the next page's cursor."""
        query = select(SessionRow).order_by(SessionRow.created_at.desc(), SessionRow.id.desc())
        for word in (q or "").split():
            query = query.where(
                or_(
                    SessionRow.question.icontains(word, autoescape=True),
                    SessionRow.answer.icontains(word, autoescape=True),
                )
            )
        query = _after(query, SessionRow.created_at, SessionRow.id, cursor).limit(limit + 1)
        async with self._db.read() as db:
            rows = list(await db.scalars(query))
        more = len(rows) > limit
        last = rows[limit - 1] if more else None
        shown = [_summary(row) for row in rows[:limit]]
        return shown, _cursor(last.created_at, last.id) if last is not None else None

    async def history(self, conversation_id: str) -> Sequence[tuple[str, str]]:
        """Questions and final answers so far, the oldest first. Raises `NotFoundError`."""
        async with self._db.read() as db:
            if await db.get(ConversationRow, conversation_id) is None:
                raise _no_conversation(conversation_id)
            rows = await db.execute(
                select(SessionRow.question, SessionRow.answer)
                .where(SessionRow.conversation_id == conversation_id, SessionRow.answer.is_not(None))
                .order_by(SessionRow.created_at, SessionRow.id)
            )
            return [(question, answer or "") for question, answer in rows]

    async def conversations(
        self, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[ConversationSummary], str | None]:
        counted = (
            select(func.count())
            .where(SessionRow.conversation_id == ConversationRow.id)
            .correlate(ConversationRow)
            .scalar_subquery()
        )
        query = select(ConversationRow, counted).order_by(
            ConversationRow.updated_at.desc(), ConversationRow.id.desc()
        )
        query = _after(query, ConversationRow.updated_at, ConversationRow.id, cursor).limit(limit + 1)
        async with self._db.read() as db:
            rows = list(await db.execute(query))
        shown = [
            ConversationSummary(row.id, row.title, count, row.created_at, row.updated_at)
            for row, count in rows[:limit]
        ]
        last = rows[limit - 1][0] if len(rows) > limit else None
        return shown, _cursor(last.updated_at, last.id) if last is not None else None

    async def conversation(self, conversation_id: str) -> Conversation:
        """A conversation with its sessions, the oldest first. Raises `NotFoundError`."""
        async with self._db.read() as db:
            row = await db.get(ConversationRow, conversation_id)
            if row is None:
                raise _no_conversation(conversation_id)
            sessions = await _sessions_of(db, conversation_id)
            return Conversation(
                row.id, row.title, row.created_at, row.updated_at, [_summary(one) for one in sessions]
            )


async def _sessions_of(db: AsyncSession, conversation_id: str) -> Sequence[SessionRow]:
    return (
        await db.scalars(
            select(SessionRow)
            .where(SessionRow.conversation_id == conversation_id)
            .order_by(SessionRow.created_at, SessionRow.id)
        )
    ).all()


def _row(session_id: str, record: AttemptRecord) -> AttemptRow:
    return AttemptRow(
        session_id=session_id,
        run=record.run,
        stage=record.stage,
        agent_id=record.agent_id,
        attempt=record.attempt,
        model=record.model,
        node=record.node,
        outcome=record.outcome.value,
        text=record.text,
        thinking=record.thinking,
        done_reason=record.done_reason,
        error=record.error,
        prompt_tokens=record.token_usage.prompt_tokens,
        completion_tokens=record.token_usage.completion_tokens,
        usage_unknown=record.usage_unknown,
        started_at=record.started_at,
        ended_at=record.ended_at,
        **{name: getattr(record.latency, name) for name in _LATENCIES},
    )


def _record(row: AttemptRow) -> AttemptRecord:
    return AttemptRecord(
        run=row.run,
        stage=row.stage,  # type: ignore[arg-type]  # only stage names are ever written
        agent_id=row.agent_id,
        attempt=row.attempt,
        model=row.model,
        node=row.node,
        outcome=Outcome(row.outcome),
        text=row.text,
        thinking=row.thinking,
        done_reason=row.done_reason,
        error=row.error,
        token_usage=TokenUsage.of(row.prompt_tokens, row.completion_tokens),
        usage_unknown=row.usage_unknown,
        latency=CallLatency(**{name: getattr(row, name) for name in _LATENCIES}),
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _summary(row: SessionRow) -> SessionSummary:
    return SessionSummary(
        id=row.id,
        conversation_id=row.conversation_id,
        question=row.question,
        state=row.state,
        result=row.result,
        chairman=str(row.plan.get("chairman", "")),
        practice=bool(row.plan.get("practice", False)),
        cached=row.cached,
        total_tokens=row.total_tokens,
        total_duration_ms=row.total_duration_ms,
        created_at=row.created_at,
        completed_at=row.completed_at,
    )


def _after(query: Select[Any], moment: Any, key: Any, cursor: str | None) -> Select[Any]:
    """Continue a newest-first list behind the cursor's row; rows that came since do not shift it."""
    if cursor is None:
        return query
    when, last_id = _read_cursor(cursor)
    return query.where(or_(moment < when, and_(moment == when, key < last_id)))


def _cursor(moment: datetime, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([moment.isoformat(), key]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        moment, key = json.loads(base64.urlsafe_b64decode(padded))
        return datetime.fromisoformat(moment), str(key)
    except (ValueError, TypeError) as error:
        raise InvalidRequestError("the cursor is not one that this list gave out") from error


def _no_session(session_id: str) -> NotFoundError:
    return NotFoundError(f"there is no session {session_id}")


def _no_conversation(conversation_id: str) -> NotFoundError:
    return NotFoundError(f"there is no conversation {conversation_id}")
