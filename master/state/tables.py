"""The tables. Our rows are the truth: a session is rebuilt from its plan and its attempts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """Times are UTC; SQLite forgets that, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SafeText(TypeDecorator[str]):
    """Any `str`: what no database keeps (NUL and half surrogates, as a model may write) becomes U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        try:
            value.encode()
        except UnicodeEncodeError:
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value.replace("\0", "\ufffd")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON(none_as_null=True)}  # noqa: RUF012  # SQLAlchemy's own form


class ConversationRow(Base):
    __tablename__ = "conversations"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    title: Mapped[str] = mapped_column(SafeText)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(index=True)


class SessionRow(Base):
    """One council. `snapshot` is the `CouncilSession` of its end; `answer` what a follow-up reads; `owner` is
    the master that runs it, or ran it last, where several may.
    """

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    question: Mapped[str] = mapped_column(SafeText)
    plan: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    over: Mapped[bool] = mapped_column(Boolean, default=False)
    cancelled: Mapped[bool] = mapped_column(Boolean, default=False)
    result: Mapped[str | None] = mapped_column(String(16))
    error: Mapped[dict[str, Any] | None]
    answer: Mapped[str | None] = mapped_column(SafeText)
    snapshot: Mapped[dict[str, Any] | None]
    cached: Mapped[bool] = mapped_column(Boolean, default=False)
    total_tokens: Mapped[int] = mapped_column(Integer, default=0)
    total_duration_ms: Mapped[float] = mapped_column(Float, default=0.0)
    seq_head: Mapped[int] = mapped_column(Integer, default=0)
    owner: Mapped[str | None] = mapped_column(String(36))
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    body_hash: Mapped[str | None] = mapped_column(String(64))
    cache_key: Mapped[str | None] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_sessions_newest", "created_at", "id"),
        # A conversation has one running session at most, whoever asks at the same moment.
        Index(
            "uq_sessions_running",
            "conversation_id",
            unique=True,
            sqlite_where=text("over = 0"),
            postgresql_where=text("over = false"),
        ),
        Index("ix_sessions_conversation", "conversation_id", "created_at"),
    )


class AttemptRow(Base):
    """One attempt of one call, with what it cost and where its time went (milliseconds)."""

    __tablename__ = "attempts"

    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True)
    run: Mapped[int] = mapped_column(Integer, primary_key=True)
    stage: Mapped[str] = mapped_column(String(16), primary_key=True)
    agent_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    model: Mapped[str] = mapped_column(String(400))
    node: Mapped[str | None] = mapped_column(String(63))
    outcome: Mapped[str] = mapped_column(String(16))
    text: Mapped[str] = mapped_column(SafeText, default="")
    thinking: Mapped[str] = mapped_column(SafeText, default="")
    done_reason: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[dict[str, Any] | None]
    prompt_tokens: Mapped[int] = mapped_column(Integer, default=0)
    completion_tokens: Mapped[int] = mapped_column(Integer, default=0)
    usage_unknown: Mapped[bool] = mapped_column(Boolean, default=False)
    queue_ms: Mapped[float] = mapped_column(Float, default=0.0)
    load_ms: Mapped[float] = mapped_column(Float, default=0.0)
    prompt_ms: Mapped[float] = mapped_column(Float, default=0.0)
    generate_ms: Mapped[float] = mapped_column(Float, default=0.0)
    network_ms: Mapped[float] = mapped_column(Float, default=0.0)
    first_token_ms: Mapped[float] = mapped_column(Float, default=0.0)
    total_ms: Mapped[float] = mapped_column(Float, default=0.0)
    tokens_per_second: Mapped[float] = mapped_column(Float, default=0.0)
    started_at: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)


class RetryRow(Base):
    """What opened run 2, 3, …: the agent that was retried."""

    __tablename__ = "session_retries"

    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True)
    run: Mapped[int] = mapped_column(Integer, primary_key=True)
    agent_id: Mapped[str] = mapped_column(String(32))


class NodeRow(Base):
    __tablename__ = "nodes"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    url: Mapped[str] = mapped_column(String(500), unique=True)
    key: Mapped[str | None] = mapped_column(String(500))
    fingerprint: Mapped[str | None] = mapped_column(String(200))
    draining: Mapped[bool] = mapped_column(Boolean, default=False)
    mac: Mapped[str | None] = mapped_column(String(17))
    added_at: Mapped[datetime]


class SpeedRow(Base):
    """One learned quantity: seconds (load), seconds per token (prompt, generate) or a part (sharing).

    `usual` is in the same unit; 0 where it was not kept.
    """

    __tablename__ = "speeds"

    node: Mapped[str] = mapped_column(String(63), primary_key=True)
    engine: Mapped[str] = mapped_column(String(16), primary_key=True)
    model: Mapped[str] = mapped_column(String(400), primary_key=True)
    quantity: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[float] = mapped_column(Float)
    usual: Mapped[float] = mapped_column(Float, server_default="0")
    samples: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[datetime]


class UsageMinuteRow(Base):
    """What one part of a machine took in the minute that began at `at` (Unix seconds)."""

    __tablename__ = "usage_minutes"

    node: Mapped[str] = mapped_column(String(63), primary_key=True)
    part: Mapped[str] = mapped_column(String(16), primary_key=True)
    at: Mapped[int] = mapped_column(Integer, primary_key=True, index=True)
    cpu_percent: Mapped[float | None] = mapped_column(Float)
    cpu_max: Mapped[float | None] = mapped_column(Float)
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)


class ActivityHourRow(Base):
    """How often people were there in one hour of the week (0: Monday from midnight)."""

    __tablename__ = "activity_hours"

    hour: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    active: Mapped[float] = mapped_column(Float)
    watched: Mapped[float] = mapped_column(Float)
    updated_at: Mapped[datetime]


class MasterRow(Base):
    """A master on this database, where it is a server. Whether it lives is told by its lock, not by this."""

    __tablename__ = "masters"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    url: Mapped[str] = mapped_column(String(500))
    version: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class ClusterSecretRow(Base):
    """What all masters of a cluster share and nobody else may have."""

    __tablename__ = "cluster_secrets"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class PulseRow(Base):
    """One row, written by health checks: reading alone would not notice a full disk."""

    __tablename__ = "pulse"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime | None]
