"""The tables of archives: raw text with its hash, what was made of it, and a checkpoint for each chunk."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Boolean, Float, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from master.state.tables import Base, SafeText


class ArchiveRow(Base):
    """One archived conversation. `watermark` counts the chunks whose result is stored.

    Large texts stand last, so that lists need not read over them.
    """

    __tablename__ = "archives"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    raw_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    status: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(String(16))
    reference: Mapped[str | None] = mapped_column(String(200))
    conversation_id: Mapped[str | None] = mapped_column(String(36), index=True)
    title: Mapped[str] = mapped_column(SafeText)
    messages_count: Mapped[int] = mapped_column(Integer)
    characters: Mapped[int] = mapped_column(Integer)
    chunks_total: Mapped[int] = mapped_column(Integer)
    watermark: Mapped[int] = mapped_column(Integer, default=0)
    quick_summary: Mapped[str] = mapped_column(SafeText)
    quick_summary_by: Mapped[str | None] = mapped_column(String(400))
    job_id: Mapped[str | None] = mapped_column(String(64))
    schema_version: Mapped[int] = mapped_column(Integer)
    model: Mapped[str | None] = mapped_column(String(400))
    prompt_hash: Mapped[str | None] = mapped_column(String(64))
    practice: Mapped[bool] = mapped_column(Boolean, default=False)
    prompt_tokens: Mapped[int] = mapped_column(Integer, default=0)
    completion_tokens: Mapped[int] = mapped_column(Integer, default=0)
    items_count: Mapped[int] = mapped_column(Integer, default=0)
    dropped: Mapped[int] = mapped_column(Integer, default=0)
    superseded_by: Mapped[str | None] = mapped_column(String(36), index=True)
    occurred_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    structured_at: Mapped[datetime | None]
    origin_deleted_at: Mapped[datetime | None]
    notes: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    plan: Mapped[dict[str, Any]]
    structured: Mapped[dict[str, Any] | None]
    messages: Mapped[str] = mapped_column(SafeText)
    search_text: Mapped[str] = mapped_column(SafeText)

    __table_args__ = (
        Index("ix_archives_newest", "created_at", "id"),
        Index("ix_archives_status", "status", "created_at"),
    )


class ArchiveSessionRow(Base):
    """Which sessions an archive holds; they may have been deleted since."""

    __tablename__ = "archive_sessions"

    archive_id: Mapped[str] = mapped_column(ForeignKey("archives.id", ondelete="CASCADE"), primary_key=True)
    session_id: Mapped[str] = mapped_column(String(36), primary_key=True, index=True)
    number: Mapped[int] = mapped_column(Integer)


class ArchiveChunkRow(Base):
    """The stored result of one chunk: a job that is taken up again goes on behind the last one.

    `input_sha256` is of the chunk's text: a conversation that has grown uses what its earlier archive gave.
    """

    __tablename__ = "archive_chunks"

    archive_id: Mapped[str] = mapped_column(ForeignKey("archives.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    input_sha256: Mapped[str] = mapped_column(String(64), index=True)
    sections: Mapped[dict[str, Any]]
    form: Mapped[str] = mapped_column(String(16))
    dropped: Mapped[int] = mapped_column(Integer)
    model: Mapped[str] = mapped_column(String(400))
    practice: Mapped[bool] = mapped_column(Boolean)
    prompt_hash: Mapped[str] = mapped_column(String(64))
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    completion_tokens: Mapped[int] = mapped_column(Integer)
    duration_ms: Mapped[float] = mapped_column(Float)
    created_at: Mapped[datetime]


class ArchiveTermRow(Base):
    """The terms by which related archives are found, with how often each occurs."""

    __tablename__ = "archive_terms"

    archive_id: Mapped[str] = mapped_column(ForeignKey("archives.id", ondelete="CASCADE"), primary_key=True)
    term: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    count: Mapped[int] = mapped_column(Integer)
