"""Sessions, their attempts and their conversations: one transaction per call.

An attempt's result is committed as it lands. Nothing here decides anything: it keeps what the pure core was
told, so that the core can be fed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from common.errors import ConflictError, NotFoundError
from master.council.plan import AttemptRecord, Outcome, SessionPlan
from master.council.states import OVER, State
from master.state import listing
from master.state.database import Transactions
from master.state.listing import Conversation, ConversationSummary, SessionSummary
from master.state.records import StoredSession, attempt_record, key_of, values_of
from master.state.tables import AttemptRow, ConversationRow, RetryRow, SessionRow

__all__ = [
    "Conversation",
    "ConversationSummary",
    "IdempotencyRaceError",
    "SessionMovedError",
    "SessionRepository",
    "SessionSummary",
    "StoredSession",
]

_TITLE_CHARS = 120
_MOST_TURNS = 100
# The tables themselves for what is written per call: the ORM's unit of work would double its cost.
_attempts: Table = AttemptRow.__table__  # type: ignore[assignment]  # declared as FromClause
_sessions: Table = SessionRow.__table__  # type: ignore[assignment]


class IdempotencyRaceError(ConflictError):
    """Somebody else opened a session with this key a moment ago; `by_idempotency_key` finds it."""


class SessionMovedError(ConflictError):
    """Another master runs this session now: what is still done here counts no more."""


class SessionRepository:
    """`owner` is set where several masters share the database: the one whose sessions these are. It then
    writes to its own sessions only, and `SessionMovedError` tells that another master has one now.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions
        self.owner: str | None = None

    # -- opening and closing ------------------------------------------------------------------------------

    async def create(
        self,
        plan: SessionPlan,
        *,
        idempotency_key: str | None = None,
        body_hash: str | None = None,
        cache_key: str | None = None,
    ) -> None:
        """Keep a new session, and its conversation when that is new.

        Raises `IdempotencyRaceError` when the key was used before, and `ConflictError` when the conversation
        has a running session; of several that come at once exactly one wins.
        """
        now = datetime.fromtimestamp(plan.created_at, UTC)
        try:
            async with self._db.write() as db:
                await _touch_conversation(db, plan, now)
                await db.execute(
                    insert(SessionRow).values(
                        id=plan.session_id,
                        conversation_id=plan.conversation_id,
                        question=plan.question,
                        plan=plan.to_json(),
                        state=State.QUEUED.value,
                        over=False,
                        owner=self.owner,
                        created_at=now,
                        idempotency_key=idempotency_key,
                        body_hash=body_hash,
                        cache_key=cache_key,
                    )
                )
        except IntegrityError as error:
            if "idempotency_key" in str(error.orig):
                raise IdempotencyRaceError("this Idempotency-Key has opened a session already") from error
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

    async def cached_result(self, cache_key: str) -> StoredSession | None:
        """The newest whole council that was asked the same; one that was itself a copy does not count."""
        query = (
            select(SessionRow.id)
            .where(
                SessionRow.cache_key == cache_key,
                SessionRow.state == State.COMPLETED.value,
                SessionRow.result.in_(("full", "single")),
                SessionRow.cached.is_(False),
            )
            .order_by(SessionRow.completed_at.desc())
            .limit(1)
        )
        async with self._db.read() as db:
            session_id = await db.scalar(query)
            return None if session_id is None else await _load(db, session_id)

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
        cached: bool = False,
    ) -> None:
        """Keep where a session stands; with its snapshot once it has ended. Raises `NotFoundError`."""
        over = state in OVER
        values: dict[str, Any] = {"state": str(state), "over": over}
        if over:
            shown = snapshot or {}
            values |= {
                "result": result,
                "error": error,
                "completed_at": completed_at or datetime.now(UTC),
                "snapshot": snapshot,
                "answer": answer,
                "cancelled": cancelled,
                "cached": cached,
                "total_tokens": (shown.get("token_usage") or {}).get("total_tokens", 0),
                "total_duration_ms": (shown.get("latency_stats") or {}).get("total_duration_ms", 0.0),
            }
        await self._update(session_id, values)

    async def cancelling(self, session_id: str) -> None:
        """Keep that a session is being cancelled: whatever happens now, it ends as that."""
        await self._update(session_id, {"cancelled": True})

    async def reopen(self, session_id: str, run: int, agent_id: str) -> None:
        """Keep that a run was opened for an agent: its row and the state, together.

        Raises `NotFoundError`, and `ConflictError` when the session or another one of its conversation runs.
        """
        values = {
            "state": State.OPINIONS.value,
            "over": False,
            "cancelled": False,
            "result": None,
            "error": None,
            "snapshot": None,
            "completed_at": None,
        }
        try:
            async with self._db.write() as db:
                over = await db.scalar(select(SessionRow.over).where(SessionRow.id == session_id))
                if over is None:
                    raise _no_session(session_id)
                if not over:
                    raise ConflictError("the session still runs; cancel it or wait for its end")
                await db.execute(insert(RetryRow).values(session_id=session_id, run=run, agent_id=agent_id))
                if self.owner is not None:
                    values["owner"] = self.owner
                await db.execute(update(_sessions).where(_sessions.c.id == session_id).values(values))
        except IntegrityError as error:
            raise ConflictError("another session of this conversation runs; wait for its end") from error

    async def delete(self, session_id: str) -> None:
        """Forget a session, and its conversation when that was the last of it. Raises `NotFoundError`."""
        async with self._db.write() as db:
            conversation_id = await db.scalar(
                select(SessionRow.conversation_id).where(SessionRow.id == session_id)
            )
            if conversation_id is None:
                raise _no_session(session_id)
            await db.execute(delete(SessionRow).where(SessionRow.id == session_id))
            others = select(SessionRow.id).where(SessionRow.conversation_id == conversation_id)
            await db.execute(
                delete(ConversationRow).where(ConversationRow.id == conversation_id, ~others.exists()),
                execution_options={"synchronize_session": False},
            )

    async def delete_conversation(self, conversation_id: str) -> None:
        """Forget a conversation with all its sessions. Raises `NotFoundError`."""
        async with self._db.write() as db:
            await _require_conversation(db, conversation_id)
            if self.owner is not None and await db.scalar(
                select(SessionRow.id).where(
                    SessionRow.conversation_id == conversation_id, SessionRow.over.is_(False)
                )
            ):
                raise ConflictError("a session of this conversation still runs; cancel it first")
            await db.execute(delete(ConversationRow).where(ConversationRow.id == conversation_id))

    # -- while it runs ------------------------------------------------------------------------------------

    async def begin_attempt(self, session_id: str, record: AttemptRecord) -> None:
        """Keep that a call goes out, before it does.

        Raises `NotFoundError` for an unknown session and `ConflictError` where this attempt has ended
        already: a finished call is never written over by one that begins.
        """
        await self._put(session_id, record, only_running=True)

    async def finish_attempt(self, session_id: str, record: AttemptRecord) -> None:
        """Keep how an attempt ended, whether its beginning was kept or not. Raises `NotFoundError`."""
        await self._put(session_id, record, only_running=False)

    async def _put(self, session_id: str, record: AttemptRecord, *, only_running: bool) -> None:
        key, values = key_of(session_id, record), values_of(record)
        change = update(_attempts).where(*(_attempts.c[name] == value for name, value in key.items()))
        if only_running:
            change = change.where(_attempts.c.outcome == Outcome.RUNNING.value)
        fresh = insert(_attempts)

        async def put(db: AsyncSession) -> None:
            connection = await db.connection()
            await self._require_ours(connection, session_id)
            if (await connection.execute(change, values)).rowcount == 0:
                await connection.execute(fresh, {**key, **values})

        try:
            await self._db.repeat(put)
        except IntegrityError as error:
            if await self._exists(session_id):
                raise ConflictError(f"this attempt of {record.agent_id} has ended already") from error
            raise _no_session(session_id) from error

    async def interrupt_running(self, session_id: str, at: float) -> None:
        """Mark the calls that were killed with the master: their usage is unknown. `at` in epoch seconds."""
        async with self._db.write() as db:
            await db.execute(
                update(_attempts)
                .where(_attempts.c.session_id == session_id, _attempts.c.outcome == Outcome.RUNNING.value)
                .values(outcome=Outcome.INTERRUPTED.value, usage_unknown=True, ended_at=at)
            )

    async def reserve_seq(self, session_id: str, up_to: int) -> None:
        """Event numbers up to this one count as used from now on. Raises `NotFoundError`."""
        await self._update(session_id, {"seq_head": up_to})

    async def _update(self, session_id: str, values: dict[str, Any]) -> None:
        async def change(db: AsyncSession) -> None:
            connection = await db.connection()
            await self._require_ours(connection, session_id)
            wanted = update(_sessions).where(_sessions.c.id == session_id)
            if (await connection.execute(wanted, values)).rowcount == 0:
                raise _no_session(session_id)

        await self._db.repeat(change)

    async def _require_ours(self, connection: AsyncConnection, session_id: str) -> None:
        """Hold the session's row, so that nobody takes it over before this transaction ends."""
        if self.owner is None:
            return
        held = select(_sessions.c.owner).where(_sessions.c.id == session_id).with_for_update(read=True)
        owner = await connection.scalar(held)
        if owner is not None and owner != self.owner:
            raise SessionMovedError("another master has taken this session over")

    # -- owners -------------------------------------------------------------------------------------------

    async def owner_of(self, session_id: str) -> tuple[str | None, bool]:
        """The master that runs a session or ran it last, and whether it has ended. Raises `NotFoundError`."""
        async with self._db.read() as db:
            found = (
                await db.execute(select(SessionRow.owner, SessionRow.over).where(SessionRow.id == session_id))
            ).first()
        if found is None:
            raise _no_session(session_id)
        return found[0], found[1]

    async def owners(self) -> set[str | None]:
        """Who owns sessions that have not ended; `None` for those of nobody."""
        async with self._db.read() as db:
            return set(
                await db.scalars(select(SessionRow.owner).where(SessionRow.over.is_(False)).distinct())
            )

    async def moved(self, session_ids: Sequence[str]) -> list[str]:
        """Which of these another master has by now."""
        if not session_ids:
            return []
        query = select(SessionRow.id).where(SessionRow.id.in_(session_ids), SessionRow.owner != self.owner)
        async with self._db.read() as db:
            return [found for found in await db.scalars(query)]

    async def claim(self, owner: str | None) -> list[str]:
        """Take over every session of `owner` that has not ended; the oldest first. Of several masters each
        session is claimed by one.
        """
        theirs = (SessionRow.over.is_(False), SessionRow.owner.is_not_distinct_from(owner))
        async with self._db.write() as db:
            found = await db.execute(
                select(SessionRow.id)
                .where(*theirs)
                .order_by(SessionRow.created_at)
                .with_for_update(skip_locked=True)
            )
            ids = [row[0] for row in found]
            await db.execute(
                update(SessionRow).where(SessionRow.id.in_(ids)).values(owner=self.owner),
                execution_options={"synchronize_session": False},
            )
        return ids

    async def _exists(self, session_id: str) -> bool:
        async with self._db.read() as db:
            return await db.scalar(select(SessionRow.id).where(SessionRow.id == session_id)) is not None

    # -- reading ------------------------------------------------------------------------------------------

    async def load(self, session_id: str) -> StoredSession:
        """A session with all its rows, attempts in the order they landed. Raises `NotFoundError`."""
        async with self._db.read() as db:
            return await _load(db, session_id)

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
        """Sessions with every word of `q` in question or answer, newest first, and the next page's cursor.

        `limit` is at most 200. Raises `InvalidRequestError` for a cursor of somebody else's making.
        """
        limit = listing.bounded(limit)
        query = listing.sessions_page(q, limit, cursor)
        async with self._db.read() as db:
            found = [listing.session_summary(row) for row in await db.execute(query)]
        shown = found[:limit]
        more = len(found) > limit
        return shown, listing.next_cursor(shown[-1].created_at, shown[-1].id) if more else None

    async def history(self, conversation_id: str) -> Sequence[tuple[str, str]]:
        """Questions and final answers of the last 100 turns, the oldest first. Raises `NotFoundError`."""
        query = (
            select(SessionRow.question, SessionRow.answer)
            .where(SessionRow.conversation_id == conversation_id, SessionRow.answer.is_not(None))
            .order_by(SessionRow.created_at.desc(), SessionRow.id.desc())
            .limit(_MOST_TURNS)
        )
        async with self._db.read() as db:
            await _require_conversation(db, conversation_id)
            newest_first = (await db.execute(query)).all()
        return [(question, answer or "") for question, answer in reversed(newest_first)]

    async def conversations(
        self, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[ConversationSummary], str | None]:
        """Conversations, the one used last first, and the next page's cursor."""
        limit = listing.bounded(limit)
        query = listing.conversations_page(limit, cursor)
        async with self._db.read() as db:
            found = [listing.conversation_summary(row) for row in await db.execute(query)]
        shown = found[:limit]
        more = len(found) > limit
        return shown, listing.next_cursor(shown[-1].updated_at, shown[-1].id) if more else None

    async def conversation(self, conversation_id: str) -> Conversation:
        """A conversation with its sessions, the oldest first. Raises `NotFoundError`."""
        async with self._db.read() as db:
            row = await _require_conversation(db, conversation_id)
            found = await db.execute(listing.sessions_of(conversation_id))
            sessions = [listing.session_summary(one) for one in found]
        return Conversation(row.id, row.title, row.created_at, row.updated_at, sessions)


async def _touch_conversation(db: AsyncSession, plan: SessionPlan, now: datetime) -> None:
    known = await db.get(ConversationRow, plan.conversation_id)
    if known is not None:
        known.updated_at = max(now, known.updated_at)
        return
    title = " ".join(plan.question.split())[:_TITLE_CHARS]
    db.add(ConversationRow(id=plan.conversation_id, title=title, created_at=now, updated_at=now))
    await db.flush()


async def _require_conversation(db: AsyncSession, conversation_id: str) -> ConversationRow:
    row = await db.get(ConversationRow, conversation_id)
    if row is None:
        raise NotFoundError(f"there is no conversation {conversation_id}")
    return row


async def _load(db: AsyncSession, session_id: str) -> StoredSession:
    row = await db.get(SessionRow, session_id)
    if row is None:
        raise _no_session(session_id)
    attempts = await db.execute(
        select(_attempts)
        .where(_attempts.c.session_id == session_id)
        # Running ones have no end yet, and come last.
        .order_by(
            _attempts.c.run,
            _attempts.c.ended_at.is_(None),
            _attempts.c.ended_at,
            _attempts.c.started_at,
            _attempts.c.attempt,
        )
    )
    retries = await db.execute(
        select(RetryRow.run, RetryRow.agent_id)
        .where(RetryRow.session_id == session_id)
        .order_by(RetryRow.run)
    )
    return StoredSession(
        plan=SessionPlan.from_json(row.plan),
        state=row.state,
        result=row.result,
        records=tuple(attempt_record(dict(one._mapping)) for one in attempts),
        retries=tuple((run, agent_id) for run, agent_id in retries),
        cancelled=row.cancelled,
        error=row.error,
        seq_head=row.seq_head,
        created_at=row.created_at,
        completed_at=row.completed_at,
        snapshot=row.snapshot,
        cached=row.cached,
    )


def _no_session(session_id: str) -> NotFoundError:
    return NotFoundError(f"there is no session {session_id}")
