"""What goes into the tables of archives and comes out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from master.state.archive_tables import ArchiveChunkRow, ArchiveRow


class Status(StrEnum):
    """Where an archive stands. `STORED`: kept, and no job is queued for it.

    `RUNNING` and `FAILED` are told of a queued one by its job.
    """

    STORED = "stored"
    QUEUED = "queued"
    RUNNING = "running"
    STRUCTURED = "structured"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NewArchive:
    """A conversation to keep. `messages` is `knowledge.messages.dump`; `plan` its chunks."""

    id: str
    raw_sha256: str
    source: str
    title: str
    messages: str
    messages_count: int
    characters: int
    chunks_total: int
    plan: dict[str, Any]
    quick_summary: str
    schema_version: int
    search_text: str
    reference: str | None = None
    conversation_id: str | None = None
    session_ids: Sequence[str] = ()
    notes: Sequence[dict[str, Any]] = ()
    occurred_at: datetime | None = None
    practice: bool = False
    terms: Mapping[str, int] = field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.__slots__}
        del own["terms"], own["session_ids"]
        return {**own, "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What one chunk gave. `form`: `schema`, `markers`, or `reused` from an earlier archive."""

    input_sha256: str
    sections: dict[str, Any]
    form: str
    dropped: int
    model: str
    practice: bool
    prompt_hash: str
    prompt_tokens: int
    completion_tokens: int
    duration_ms: float

    def columns(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StoredChunk:
    number: int
    result: ChunkResult


@dataclass(frozen=True, slots=True)
class StructuredResult:
    """The whole archive, and what its last call cost beyond those of the chunks."""

    structured: dict[str, Any]
    items_count: int
    dropped: int
    model: str | None
    prompt_hash: str
    practice: bool
    search_text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    terms: Mapping[str, int] = field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        names = ("structured", "items_count", "dropped", "model", "prompt_hash", "practice", "search_text")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class ArchiveSummary:
    """One line of a list of archives."""

    id: str
    status: str
    source: str
    conversation_id: str | None
    title: str
    quick_summary: str
    quick_summary_by: str | None
    messages_count: int
    characters: int
    chunks_total: int
    watermark: int
    items_count: int
    dropped: int
    model: str | None
    practice: bool
    job_id: str | None
    superseded_by: str | None
    occurred_at: datetime | None
    created_at: datetime
    updated_at: datetime
    structured_at: datetime | None
    origin_deleted_at: datetime | None
    error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive whole."""

    summary: ArchiveSummary
    raw_sha256: str
    reference: str | None
    session_ids: list[str]
    notes: list[dict[str, Any]]
    plan: dict[str, Any]
    structured: dict[str, Any] | None
    messages: str
    schema_version: int
    prompt_hash: str | None
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over all archives that no later one replaced; `superseded` counts those."""

    total: int
    by_status: dict[str, int]
    by_source: dict[str, int]
    messages: int
    characters: int
    items: int
    dropped: int
    prompt_tokens: int
    completion_tokens: int
    superseded: int
    oldest_waiting_at: datetime | None


SUMMARY_FIELDS = tuple(ArchiveSummary.__slots__)


def archive(row: ArchiveRow, summary: ArchiveSummary, session_ids: list[str]) -> Archive:
    return Archive(
        summary,
        row.raw_sha256,
        row.reference,
        session_ids,
        row.notes,
        row.plan,
        row.structured,
        row.messages,
        row.schema_version,
        row.prompt_hash,
        row.prompt_tokens,
        row.completion_tokens,
    )


def stored_chunk(row: ArchiveChunkRow) -> StoredChunk:
    names = ChunkResult.__slots__
    return StoredChunk(row.number, ChunkResult(**{name: getattr(row, name) for name in names}))
