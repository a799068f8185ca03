"""Lists of archives and their statistics."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, Select, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from master.knowledge.words import fold
from master.state.archive_records import SUMMARY_FIELDS, ArchiveSummary, Statistics, Status
from master.state.archive_tables import ArchiveRow
from master.state.job_tables import JobRow
from master.state.listing import after

MOST_SHARED_TERMS = 24
MOST_SHARED_ROWS = 20_000
_MOST_WORDS = 16
# Where a queued archive stands is where its job stands: there is one truth, and it is the job's row.
STATUS = case(
    (ArchiveRow.status != Status.QUEUED.value, ArchiveRow.status),
    (JobRow.id.is_(None), literal(Status.STORED.value)),
    (JobRow.state == "running", literal(Status.RUNNING.value)),
    (JobRow.state.in_(("queued", "waiting")), literal(Status.QUEUED.value)),
    else_=literal(Status.FAILED.value),
)
_COMPUTED = {
    "status": STATUS.label("status"),
    "error": case((JobRow.state != "running", JobRow.cause), else_=None).label("error"),
}
_SUMMARY = tuple(
    _COMPUTED[name] if name in _COMPUTED else getattr(ArchiveRow, name) for name in SUMMARY_FIELDS
)
_FROM = ArchiveRow.__table__.outerjoin(JobRow.__table__, ArchiveRow.job_id == JobRow.id)


def page(
    q: str | None,
    status: str | None,
    source: str | None,
    conversation_id: str | None,
    practice: bool | None,
    superseded: bool,
    limit: int,
    cursor: str | None,
) -> Select[Any]:
    """Summaries, one row more than `limit`. The text that is searched was folded as the words are here."""
    query = select(*_SUMMARY).select_from(_FROM).order_by(ArchiveRow.created_at.desc(), ArchiveRow.id.desc())
    for word in fold(q or "").split()[:_MOST_WORDS]:
        query = query.where(ArchiveRow.search_text.contains(word, autoescape=True))
    for column, wanted in (
        (STATUS, status),
        (ArchiveRow.source, source),
        (ArchiveRow.conversation_id, conversation_id),
        (ArchiveRow.practice, practice),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if not superseded:
        query = query.where(ArchiveRow.superseded_by.is_(None))
    return after(query, ArchiveRow.created_at, ArchiveRow.id, cursor).limit(limit + 1)


def one(archive_id: str) -> Select[Any]:
    """The summary of one archive."""
    return select(*_SUMMARY).select_from(_FROM).where(ArchiveRow.id == archive_id)


def without_job() -> Select[Any]:
    """Archives that are only stored, the oldest first."""
    query = select(ArchiveRow.id).select_from(_FROM).where(STATUS == Status.STORED.value)
    return query.order_by(ArchiveRow.created_at, ArchiveRow.id)


def summary(row: Row[Any]) -> ArchiveSummary:
    return ArchiveSummary(**row._mapping)


async def statistics(db: AsyncSession) -> Statistics:
    current = ArchiveRow.superseded_by.is_(None)

    async def counted(column: Any) -> dict[str, int]:
        # Counted from outside: a computed column cannot be grouped by on every database.
        each = select(column.label("name")).select_from(_FROM).where(current).subquery()
        rows = await db.execute(select(each.c.name, func.count()).group_by(each.c.name))
        return {name: count for name, count in rows}

    sums = (
        await db.execute(
            select(
                func.count(),
                *(
                    func.coalesce(func.sum(column), 0)
                    for column in (
                        ArchiveRow.messages_count,
                        ArchiveRow.characters,
                        ArchiveRow.items_count,
                        ArchiveRow.dropped,
                        ArchiveRow.prompt_tokens,
                        ArchiveRow.completion_tokens,
                    )
                ),
            ).where(current)
        )
    ).one()
    total, messages, characters, items, dropped, prompt_tokens, completion_tokens = (int(one) for one in sums)
    replaced = await db.scalar(select(func.count()).where(~current)) or 0
    oldest = await db.scalar(
        select(ArchiveRow.created_at)
        .select_from(_FROM)
        .where(current, STATUS.not_in((Status.STRUCTURED.value, Status.FAILED.value)))
        .order_by(ArchiveRow.created_at)
        .limit(1)
    )
    by_status = {one.value: 0 for one in Status} | await counted(STATUS)
    return Statistics(
        total=total,
        by_status=by_status,
        by_source=await counted(ArchiveRow.source),
        messages=messages,
        characters=characters,
        items=items,
        dropped=dropped,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        superseded=replaced,
        oldest_waiting_at=oldest,
    )
