"""The tables of background work. Our rows are the truth; the job engine keeps finished steps only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Float, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from master.state.tables import Base, SafeText

READY = ("queued", "waiting")
PENDING = (*READY, "running")
_PENDING_SQL = text("state IN ('queued', 'waiting', 'running')")


class BatchRow(Base):
    """Jobs that were submitted together."""

    __tablename__ = "job_batches"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]


class JobRow(Base):
    """One job. `run` counts what people asked for (retry), `handed` how often an executor took it up,
    `attempts` failures that count, `pauses` returns to the queue since it last got on.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    priority: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(Integer, default=0)
    long: Mapped[bool] = mapped_column(Boolean, default=False)
    state: Mapped[str] = mapped_column(String(16))
    input: Mapped[dict[str, Any]]
    custom_id: Mapped[str | None] = mapped_column(String(200))
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("job_batches.id", ondelete="CASCADE"))
    dedup_key: Mapped[str | None] = mapped_column(String(300))
    run: Mapped[int] = mapped_column(Integer, default=1)
    handed: Mapped[int] = mapped_column(Integer, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    pauses: Mapped[int] = mapped_column(Integer, default=0)
    again: Mapped[bool] = mapped_column(Boolean, default=False)
    cancelling: Mapped[bool] = mapped_column(Boolean, default=False)
    owner: Mapped[str | None] = mapped_column(String(100))
    done: Mapped[int] = mapped_column(Integer, default=0)
    total: Mapped[int] = mapped_column(Integer, default=0)
    note: Mapped[str] = mapped_column(SafeText, default="")
    result: Mapped[dict[str, Any] | None]
    cause: Mapped[dict[str, Any] | None]
    not_before: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_jobs_order", "state", "priority", "created_at", "position"),
        Index("ix_jobs_newest", "created_at", "id"),
        Index("ix_jobs_batch", "batch_id", "position"),
        Index(
            "uq_jobs_pending_key",
            "dedup_key",
            unique=True,
            sqlite_where=_PENDING_SQL,
            postgresql_where=_PENDING_SQL,
        ),
    )


class JobCallRow(Base):
    """One attempt of one model call of a job, with what it cost (milliseconds, tokens).

    No foreign key: what was spent today counts even when its job was deleted.
    """

    __tablename__ = "job_calls"

    call_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(36), index=True)
    run: Mapped[int] = mapped_column(Integer)
    owner: Mapped[str | None] = mapped_column(String(100))
    model: Mapped[str] = mapped_column(String(400))
    node: Mapped[str | None] = mapped_column(String(63))
    outcome: Mapped[str] = mapped_column(String(16))
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
    started_at: Mapped[float] = mapped_column(Float, index=True)
    ended_at: Mapped[float | None] = mapped_column(Float)


class ScheduleRow(Base):
    """A job that is submitted again and again. `next_at` is moved on in the transaction that submits it."""

    __tablename__ = "job_schedules"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    input: Mapped[dict[str, Any]]
    cron: Mapped[str] = mapped_column(String(100))
    priority: Mapped[int | None] = mapped_column(Integer)
    next_at: Mapped[datetime] = mapped_column(index=True)
    last_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class QueueRow(Base):
    """One row: whether people paused the whole queue."""

    __tablename__ = "job_queue"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    paused: Mapped[bool] = mapped_column(Boolean, default=False)
    reason: Mapped[str] = mapped_column(SafeText, default="")
