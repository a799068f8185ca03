"""Lists of sessions and conversations, newest first, page by page."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, and_, func, or_, select

from common.errors import InvalidRequestError
from master.state.tables import ConversationRow, SessionRow

MOST_ROWS = 200
_MOST_WORDS = 16
_QUESTION_CHARS = 1000


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One line of a list of sessions; a very long `question` is cut there."""

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


# Snapshots and answers are far larger than all of this together: a list never reads them.
_SUMMARY = (
    SessionRow.id,
    SessionRow.conversation_id,
    func.substr(SessionRow.question, 1, _QUESTION_CHARS).label("question"),
    SessionRow.state,
    SessionRow.result,
    SessionRow.plan["chairman"].as_string().label("chairman"),
    func.coalesce(SessionRow.plan["practice"].as_boolean(), False).label("practice"),
    SessionRow.cached,
    SessionRow.total_tokens,
    SessionRow.total_duration_ms,
    SessionRow.created_at,
    SessionRow.completed_at,
)


def sessions_page(q: str | None, limit: int, cursor: str | None) -> Select[Any]:
    """Summaries of sessions with every word of `q` in question or answer, one row more than `limit`."""
    query = select(*_SUMMARY).order_by(SessionRow.created_at.desc(), SessionRow.id.desc())
    for word in (q or "").split()[:_MOST_WORDS]:
        query = query.where(
            or_(
                SessionRow.question.icontains(word, autoescape=True),
                SessionRow.answer.icontains(word, autoescape=True),
            )
        )
    return after(query, SessionRow.created_at, SessionRow.id, cursor).limit(limit + 1)


def sessions_of(conversation_id: str) -> Select[Any]:
    """Summaries of a conversation's sessions, the oldest first."""
    return (
        select(*_SUMMARY)
        .where(SessionRow.conversation_id == conversation_id)
        .order_by(SessionRow.created_at, SessionRow.id)
    )


def conversations_page(limit: int, cursor: str | None) -> Select[Any]:
    """Conversations with the number of their sessions, one row more than `limit`."""
    counted = (
        select(func.count())
        .where(SessionRow.conversation_id == ConversationRow.id)
        .correlate(ConversationRow)
        .scalar_subquery()
    )
    query = select(
        ConversationRow.id,
        ConversationRow.title,
        counted.label("sessions"),
        ConversationRow.created_at,
        ConversationRow.updated_at,
    ).order_by(ConversationRow.updated_at.desc(), ConversationRow.id.desc())
    return after(query, ConversationRow.updated_at, ConversationRow.id, cursor).limit(limit + 1)


def session_summary(row: Row[Any]) -> SessionSummary:
    return SessionSummary(**{**row._mapping, "practice": bool(row.practice)})


def conversation_summary(row: Row[Any]) -> ConversationSummary:
    return ConversationSummary(**row._mapping)


def bounded(limit: int) -> int:
    return max(1, min(limit, MOST_ROWS))


def next_cursor(moment: datetime, key: str) -> str:
    """Names the last row of a page; the next page begins behind it."""
    return base64.urlsafe_b64encode(json.dumps([moment.isoformat(), key]).encode()).decode().rstrip("=")


def after(query: Select[Any], moment: Any, key: Any, cursor: str | None) -> Select[Any]:
    """Continue a newest-first list behind the cursor's row; rows that came since do not shift it."""
    if cursor is None:
        return query
    when, last_id = _read_cursor(cursor)
    return query.where(or_(moment < when, and_(moment == when, key < last_id)))


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        moment, key = json.loads(base64.urlsafe_b64decode(padded))
        return datetime.fromisoformat(moment).astimezone(UTC), str(key)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequestError("the cursor is not one that this list gave out") from error
