"""Archives: kept before anything is made of them, chunk by chunk, never marked as done before they are.

The watermark moves only in the transaction that stores a chunk's result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from common.errors import ConflictError, NotFoundError
from master.knowledge.related import Related, rank
from master.state import archive_listing as listing
from master.state.archive_records import (
    Archive,
    ArchiveSummary,
    ChunkResult,
    NewArchive,
    Statistics,
    Status,
    StoredChunk,
    StructuredResult,
    archive,
    stored_chunk,
)
from master.state.archive_tables import ArchiveChunkRow, ArchiveRow, ArchiveSessionRow, ArchiveTermRow
from master.state.database import Transactions
from master.state.listing import bounded, next_cursor

Queue = Callable[[AsyncSession], Awaitable[str]]
"""Puts the job of an archive into the queue, in the transaction it is given; returns the job's id."""


class ArchiveRepository:
    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    # -- keeping ------------------------------------------------------------------------------------------

    async def add(self, new: NewArchive, queue: Queue | None) -> tuple[str, bool]:
        """Keep a conversation and queue its job, in one transaction: (archive id, whether it is new).

        The same words are the same archive, whoever brings them at the same moment.
        """
        known = await self.by_hash(new.raw_sha256)
        if known is not None:
            return known, False
        now = datetime.now(UTC)
        try:
            async with self._db.write() as db:
                await db.execute(insert(ArchiveRow).values(_row_of(new, now)))
                if new.session_ids:
                    await db.execute(
                        insert(ArchiveSessionRow),
                        [
                            {"archive_id": new.id, "session_id": one, "number": number}
                            for number, one in enumerate(new.session_ids)
                        ],
                    )
                await _put_terms(db, new.id, new.terms)
                if queue is not None:
                    await _queued(db, new.id, await queue(db))
        except IntegrityError:
            known = await self.by_hash(new.raw_sha256)
            if known is None:
                raise
            return known, False
        return new.id, True

    async def requeue(self, archive_id: str, queue: Queue) -> bool:
        """Queue the job of an archive that is only stored; whether it was."""
        async with self._db.write() as db:
            row = (await db.execute(listing.one(archive_id))).first()
            if row is None or row.status != Status.STORED:
                return False
            await _queued(db, archive_id, await queue(db))
        return True

    async def reopen(self, archive_id: str, plan: Mapping[str, Any], chunks_total: int, queue: Queue) -> None:
        """Have a structured archive made anew from its first chunk on; until then it shows what it has.

        Raises `NotFoundError`, and `ConflictError` where it is not structured (any more).
        """
        async with self._db.write() as db:
            row = (await db.execute(listing.one(archive_id))).first()
            if row is None:
                raise _no_archive(archive_id)
            if row.status != Status.STRUCTURED:
                raise ConflictError(
                    f"archive {archive_id} is {row.status}; it can be made anew when it is not"
                )
            await db.execute(delete(ArchiveChunkRow).where(ArchiveChunkRow.archive_id == archive_id))
            await db.execute(
                update(ArchiveRow)
                .where(ArchiveRow.id == archive_id)
                .values(plan=dict(plan), chunks_total=chunks_total, watermark=0, structured_at=None)
            )
            await _queued(db, archive_id, await queue(db))

    async def set_quick_summary(self, archive_id: str, text: str, by: str) -> None:
        """Put a model's summary in the place of the first sentences. One that is gone is no error."""
        await self._set(archive_id, quick_summary=text, quick_summary_by=by)

    async def by_hash(self, raw_sha256: str) -> str | None:
        async with self._db.read() as db:
            found: str | None = await db.scalar(
                select(ArchiveRow.id).where(ArchiveRow.raw_sha256 == raw_sha256)
            )
            return found

    # -- the job ------------------------------------------------------------------------------------------

    async def keep_chunk(self, archive_id: str, number: int, result: ChunkResult) -> None:
        """Store the result of a chunk and move the watermark, in one transaction; twice is once.

        Raises `NotFoundError` where the archive was deleted meanwhile.
        """
        now = datetime.now(UTC)
        async with self._db.write() as db:
            mark = await db.scalar(
                select(ArchiveRow.watermark).where(ArchiveRow.id == archive_id).with_for_update()
            )
            if mark is None:
                raise _no_archive(archive_id)
            if await db.get(ArchiveChunkRow, (archive_id, number)) is not None:
                return
            await db.execute(
                insert(ArchiveChunkRow).values(
                    archive_id=archive_id, number=number, created_at=now, **result.columns()
                )
            )
            done = await db.scalar(select(func.count()).where(ArchiveChunkRow.archive_id == archive_id))
            await db.execute(
                update(ArchiveRow)
                .where(ArchiveRow.id == archive_id)
                .values(
                    watermark=done,
                    updated_at=now,
                    prompt_tokens=ArchiveRow.prompt_tokens + result.prompt_tokens,
                    completion_tokens=ArchiveRow.completion_tokens + result.completion_tokens,
                )
            )

    async def has_chunk(self, archive_id: str, number: int) -> bool:
        async with self._db.read() as db:
            return await db.get(ArchiveChunkRow, (archive_id, number)) is not None

    async def equal_chunk(self, input_sha256: str, prompt_hash: str) -> StoredChunk | None:
        """What the same text gave under the same instructions before; never a practice model's."""
        query = (
            select(ArchiveChunkRow)
            .where(
                ArchiveChunkRow.input_sha256 == input_sha256,
                ArchiveChunkRow.prompt_hash == prompt_hash,
                ArchiveChunkRow.practice.is_(False),
            )
            .order_by(ArchiveChunkRow.created_at.desc())
            .limit(1)
        )
        async with self._db.read() as db:
            row = await db.scalar(query)
            return None if row is None else stored_chunk(row)

    async def chunks(self, archive_id: str) -> list[StoredChunk]:
        """The stored chunks of an archive, in order."""
        query = (
            select(ArchiveChunkRow)
            .where(ArchiveChunkRow.archive_id == archive_id)
            .order_by(ArchiveChunkRow.number)
        )
        async with self._db.read() as db:
            return [stored_chunk(row) for row in await db.scalars(query)]

    async def finish(self, archive_id: str, result: StructuredResult) -> None:
        """Store the structured archive; earlier archives of the same conversation step back.

        Raises `NotFoundError` where it was deleted meanwhile.
        """
        now = datetime.now(UTC)
        async with self._db.write() as db:
            row = (
                await db.execute(
                    select(
                        ArchiveRow.conversation_id,
                        ArchiveRow.source,
                        ArchiveRow.created_at,
                        ArchiveRow.structured_at,
                    ).where(ArchiveRow.id == archive_id)
                )
            ).first()
            if row is None:
                raise _no_archive(archive_id)
            if row.structured_at is not None:
                return
            await db.execute(
                update(ArchiveRow)
                .where(ArchiveRow.id == archive_id)
                .values(
                    status=Status.STRUCTURED.value,
                    structured_at=now,
                    updated_at=now,
                    prompt_tokens=ArchiveRow.prompt_tokens + result.prompt_tokens,
                    completion_tokens=ArchiveRow.completion_tokens + result.completion_tokens,
                    **result.columns(),
                )
            )
            await db.execute(delete(ArchiveTermRow).where(ArchiveTermRow.archive_id == archive_id))
            await _put_terms(db, archive_id, result.terms)
            if row.conversation_id is not None and row.source == "conversation":
                await db.execute(
                    update(ArchiveRow)
                    .where(
                        ArchiveRow.conversation_id == row.conversation_id,
                        ArchiveRow.source == "conversation",
                        ArchiveRow.id != archive_id,
                        ArchiveRow.created_at < row.created_at,
                    )
                    .values(superseded_by=archive_id)
                )

    # -- reading ------------------------------------------------------------------------------------------

    async def get(self, archive_id: str) -> Archive:
        """An archive with its whole conversation. Raises `NotFoundError`."""
        async with self._db.read() as db:
            row = await db.get(ArchiveRow, archive_id)
            found = (await db.execute(listing.one(archive_id))).first()
            if row is None or found is None:
                raise _no_archive(archive_id)
            sessions = await db.scalars(
                select(ArchiveSessionRow.session_id)
                .where(ArchiveSessionRow.archive_id == archive_id)
                .order_by(ArchiveSessionRow.number)
            )
            return archive(row, listing.summary(found), list(sessions))

    async def summary(self, archive_id: str) -> ArchiveSummary:
        """An archive as a list shows it. Raises `NotFoundError`."""
        async with self._db.read() as db:
            row = (await db.execute(listing.one(archive_id))).first()
            if row is None:
                raise _no_archive(archive_id)
            return listing.summary(row)

    async def statistics(self) -> Statistics:
        async with self._db.read() as db:
            return await listing.statistics(db)

    async def without_job(self) -> list[str]:
        """Archives that are only stored, the oldest first."""
        async with self._db.read() as db:
            return list(await db.scalars(listing.without_job()))

    async def related(self, archive_id: str) -> list[tuple[Related, str]]:
        """The archives that share most terms with this one, each with its title."""
        current = select(ArchiveRow.id).where(ArchiveRow.superseded_by.is_(None))
        async with self._db.read() as db:
            own = {
                term: count
                for term, count in await db.execute(
                    select(ArchiveTermRow.term, ArchiveTermRow.count).where(
                        ArchiveTermRow.archive_id == archive_id
                    )
                )
            }
            if not own:
                return []
            total = await db.scalar(select(func.count()).select_from(current.subquery())) or 1
            rows = await db.execute(
                select(ArchiveTermRow.term, func.count())
                .where(ArchiveTermRow.term.in_(own))
                .group_by(ArchiveTermRow.term)
            )
            frequency = {term: count for term, count in rows}
            # The rarest terms first: the common ones would drag in everything and say little.
            rare = sorted(own, key=lambda term: (frequency[term], term))[: listing.MOST_SHARED_TERMS]
            pairs = await db.execute(
                select(ArchiveTermRow.archive_id, ArchiveTermRow.term)
                .where(
                    ArchiveTermRow.term.in_(rare),
                    ArchiveTermRow.archive_id != archive_id,
                    ArchiveTermRow.archive_id.in_(current),
                )
                .limit(listing.MOST_SHARED_ROWS)
            )
            found = rank(own, [(row[0], row[1]) for row in pairs], frequency, total)
            named = await db.execute(
                select(ArchiveRow.id, ArchiveRow.title).where(
                    ArchiveRow.id.in_([one.archive_id for one in found])
                )
            )
            titles = {str(row[0]): str(row[1]) for row in named}
        return [(one, titles[one.archive_id]) for one in found if one.archive_id in titles]

    # -- forgetting ---------------------------------------------------------------------------------------

    async def delete(self, archive_id: str) -> str | None:
        """Forget an archive for good; returns the id of its job. Raises `NotFoundError`.

        What it had replaced is listed again.
        """
        async with self._db.write() as db:
            row = (await db.execute(select(ArchiveRow.job_id).where(ArchiveRow.id == archive_id))).first()
            if row is None:
                raise _no_archive(archive_id)
            await db.execute(
                update(ArchiveRow).where(ArchiveRow.superseded_by == archive_id).values(superseded_by=None)
            )
            await db.execute(delete(ArchiveRow).where(ArchiveRow.id == archive_id))
        return None if row.job_id is None else str(row.job_id)

    async def holding(
        self, *, session_id: str | None = None, conversation_id: str | None = None
    ) -> list[str]:
        """Archives that hold a session, or anything of a conversation."""
        of_session = select(ArchiveSessionRow.archive_id).where(ArchiveSessionRow.session_id == session_id)
        found: ColumnElement[bool] = ArchiveRow.id.in_(of_session)
        if conversation_id is not None:
            found = or_(found, ArchiveRow.conversation_id == conversation_id)
        query = select(ArchiveRow.id).where(found)
        async with self._db.read() as db:
            return list(await db.scalars(query))

    async def mark_origin_deleted(self, archive_ids: Sequence[str]) -> None:
        """Keep that what they came from is gone."""
        if not archive_ids:
            return
        async with self._db.write() as db:
            await db.execute(
                update(ArchiveRow)
                .where(ArchiveRow.id.in_(archive_ids), ArchiveRow.origin_deleted_at.is_(None))
                .values(origin_deleted_at=datetime.now(UTC))
            )

    async def _set(self, archive_id: str, **values: Any) -> bool:
        async with self._db.write() as db:
            done = await db.execute(
                update(ArchiveRow)
                .where(ArchiveRow.id == archive_id)
                .values(updated_at=datetime.now(UTC), **values)
                .returning(ArchiveRow.id)
            )
            return done.first() is not None

    async def list(
        self,
        *,
        q: str | None = None,
        status: str | None = None,
        source: str | None = None,
        conversation_id: str | None = None,
        practice: bool | None = None,
        superseded: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[ArchiveSummary], str | None]:
        """Archives with every word of `q`, newest first, and the next page's cursor.

        Those that a later archive of the same conversation replaced are listed with `superseded` alone.
        Raises `InvalidRequestError` for a cursor of somebody else's making.
        """
        limit = bounded(limit)
        query = listing.page(q, status, source, conversation_id, practice, superseded, limit, cursor)
        async with self._db.read() as db:
            found = [listing.summary(row) for row in await db.execute(query)]
        shown = found[:limit]
        more = len(found) > limit
        return shown, next_cursor(shown[-1].created_at, shown[-1].id) if more else None


async def _queued(db: AsyncSession, archive_id: str, job_id: str) -> None:
    await db.execute(
        update(ArchiveRow)
        .where(ArchiveRow.id == archive_id)
        .values(status=Status.QUEUED.value, job_id=job_id, updated_at=datetime.now(UTC))
    )


async def _put_terms(db: AsyncSession, archive_id: str, terms: Mapping[str, int]) -> None:
    if terms:
        rows = [{"archive_id": archive_id, "term": term, "count": count} for term, count in terms.items()]
        await db.execute(insert(ArchiveTermRow), rows)


def _row_of(new: NewArchive, now: datetime) -> dict[str, Any]:
    return {**new.columns(), "status": Status.STORED.value, "created_at": now, "updated_at": now}


def _no_archive(archive_id: str) -> NotFoundError:
    return NotFoundError(f"there is no archive {archive_id}")
