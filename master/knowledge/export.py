"""An archive as its readers see it: the API's JSON, and Markdown. Pure."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from master.knowledge.markdown import Head, markdown
from master.knowledge.messages import load
from master.knowledge.sections import Sections
from master.state.archive_records import Archive, ArchiveSummary, Status


def as_json(archive: Archive, *, with_messages: bool) -> dict[str, Any]:
    """All that is known of an archive, as JSON can hold it."""
    summary = {name: _plain(value) for name, value in asdict(archive.summary).items()}
    shown = {
        **summary,
        "session_ids": archive.session_ids,
        "reference": archive.reference,
        "notes": archive.notes,
        "structured": archive.structured,
        "schema_version": archive.schema_version,
        "prompt_hash": archive.prompt_hash,
        "raw_sha256": archive.raw_sha256,
        "token_usage": {
            "prompt_tokens": archive.prompt_tokens,
            "completion_tokens": archive.completion_tokens,
            "total_tokens": archive.prompt_tokens + archive.completion_tokens,
        },
    }
    if with_messages:
        shown["messages"] = [{"role": one.role, "content": one.content} for one in load(archive.messages)]
    return shown


def as_markdown(archive: Archive, *, with_messages: bool) -> str:
    shown = archive.summary
    head = Head(
        id=shown.id,
        title=shown.title,
        status=shown.status,
        source=shown.source,
        conversation_id=shown.conversation_id,
        session_ids=archive.session_ids,
        messages=shown.messages_count,
        raw_sha256=archive.raw_sha256,
        quick_summary=shown.quick_summary,
        created_at=shown.created_at,
        occurred_at=shown.occurred_at,
        structured_at=shown.structured_at,
        models=shown.model.split(", ") if shown.model else (),
        schema_version=archive.schema_version,
        practice=shown.practice,
        dropped=shown.dropped,
        origin_deleted_at=shown.origin_deleted_at,
        problem=_problem(shown),
        notes=archive.notes,
    )
    sections = Sections.from_json(archive.structured) if archive.structured is not None else None
    return markdown(head, sections, load(archive.messages) if with_messages else ())


def _problem(shown: ArchiveSummary) -> str | None:
    """Why it failed; what only delays it is told by its job."""
    if shown.status != Status.FAILED:
        return None
    return str(shown.error["detail"]) if shown.error else "its job was cancelled"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
