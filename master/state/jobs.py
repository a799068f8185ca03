"""Jobs: what one is, added in anybody's transaction, read, and deleted when they ended long ago.

How executors take them up is in `job_queue`, what people do with them in `job_control`.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, Table, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from common.errors import ConflictError, NotFoundError
from master.state import listing
from master.state.database import Transactions
from master.state.job_tables import PENDING, BatchRow, JobCallRow, JobRow

JobState = Literal["queued", "waiting", "running", "done", "failed", "dead", "cancelled"]
MOST_AT_ONCE = 500
_KEY_TRIES = 10
_jobs: Table = JobRow.__table__  # type: ignore[assignment]  # declared as FromClause


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be added. `key`: while one with it is pending, no second one is made."""

    type: str
    input: dict[str, Any]
    priority: int
    long: bool = False
    key: str | None = None
    custom_id: str | None = None
    not_before: datetime | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, slots=True)
class Added:
    """`is_new` is false where a pending job with the same key was found instead."""

    id: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands."""

    id: str
    type: str
    priority: int
    long: bool
    state: JobState
    input: dict[str, Any]
    custom_id: str | None
    batch_id: str | None
    run: int
    handed: int
    attempts: int
    pauses: int
    again: bool
    cancelling: bool
    owner: str | None
    done: int
    total: int
    note: str
    result: dict[str, Any] | None
    cause: dict[str, Any] | None
    not_before: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


COLUMNS = tuple(_jobs.c[name] for name in Job.__dataclass_fields__)


class JobRepository:
    """Every job, whatever its state: how it comes in, is read, and is deleted."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    # -- coming in ----------------------------------------------------------------------------------------

    @staticmethod
    async def add(db: AsyncSession, job: NewJob, *, batch_id: str | None = None, position: int = 0) -> Added:
        """Add a job within the caller's transaction, so that it exists exactly when what it is about does."""
        values = {
            "id": job.id,
            "type": job.type,
            "input": job.input,
            "priority": job.priority,
            "long": job.long,
            "dedup_key": job.key,
            "custom_id": job.custom_id,
            "batch_id": batch_id,
            "position": position,
            "state": "queued",
            "not_before": job.not_before,
            "created_at": datetime.now(UTC),
        }
        if job.key is None:
            await db.execute(insert(_jobs).values(values))
            return Added(job.id, True)
        insert_of = postgresql.insert if db.get_bind().dialect.name == "postgresql" else sqlite.insert
        fresh = insert_of(_jobs).values(values).on_conflict_do_nothing().returning(_jobs.c.id)
        same = select(_jobs.c.id).where(_jobs.c.dedup_key == job.key, _jobs.c.state.in_(PENDING))
        for _ in range(_KEY_TRIES):
            if await db.scalar(fresh) is not None:
                return Added(job.id, True)
            found = await db.scalar(same)
            if found is not None:  # else it has ended between the two
                return Added(found, False)
        raise ConflictError(f"jobs with the key {job.key} come and go; try again")

    async def submit(self, job: NewJob) -> Added:
        """Add one job in a transaction of its own."""
        async with self._db.write() as db:
            return await self.add(db, job)

    async def submit_batch(self, type_name: str, jobs: Sequence[NewJob]) -> str:
        """Add all of them or none; the batch's id."""
        batch_id = str(uuid.uuid4())
        async with self._db.write() as db:
            await db.execute(
                insert(BatchRow).values(
                    id=batch_id, type=type_name, size=len(jobs), created_at=datetime.now(UTC)
                )
            )
            for position, job in enumerate(jobs):
                await self.add(db, job, batch_id=batch_id, position=position)
        return batch_id

    # -- reading ------------------------------------------------------------------------------------------

    async def get(self, job_id: str) -> Job:
        """Raises `NotFoundError`."""
        async with self._db.read() as db:
            return await one_job(db, job_id)

    async def list(
        self,
        *,
        states: Collection[str] = (),
        type_name: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[Job], str | None]:
        """Jobs, the newest first, and the next page's cursor. Raises `InvalidRequestError` (cursor)."""
        limit = listing.bounded(limit)
        query: Select[Any] = select(*COLUMNS).order_by(_jobs.c.created_at.desc(), _jobs.c.id.desc())
        if states:
            query = query.where(_jobs.c.state.in_(states))
        if type_name:
            query = query.where(_jobs.c.type == type_name)
        query = listing.after(query, _jobs.c.created_at, _jobs.c.id, cursor).limit(limit + 1)
        async with self._db.read() as db:
            found = [job_of(row) for row in await db.execute(query)]
        shown = found[:limit]
        more = len(found) > limit
        return shown, listing.next_cursor(shown[-1].created_at, shown[-1].id) if more else None

    async def counts(self) -> dict[str, dict[str, int]]:
        """How many there are, by state and type."""
        query = select(_jobs.c.state, _jobs.c.type, func.count()).group_by(_jobs.c.state, _jobs.c.type)
        found: dict[str, dict[str, int]] = {}
        async with self._db.read() as db:
            for state, type_name, count in await db.execute(query):
                found.setdefault(state, {})[type_name] = count
        return found

    async def batch(self, batch_id: str) -> tuple[str, datetime, Sequence[Job]]:
        """Type, time and jobs of a batch, in the order they came in. Raises `NotFoundError`."""
        async with self._db.read() as db:
            row = await db.get(BatchRow, batch_id)
            if row is None:
                raise NotFoundError(f"there is no batch {batch_id}")
            jobs = await _select(db, _jobs.c.batch_id == batch_id, _jobs.c.position)
        return row.type, row.created_at, jobs

    # -- retention ----------------------------------------------------------------------------------------

    async def expired(self, older_than: timedelta) -> Sequence[str]:
        """Some jobs that ended so long ago, by their ids; dead letters stay."""
        async with self._db.read() as db:
            return list(await db.scalars(select(_jobs.c.id).where(*_expired(older_than)).limit(MOST_AT_ONCE)))

    async def delete(self, job_ids: Collection[str], older_than: timedelta) -> None:
        """Delete these, except what was retried meanwhile, and what belongs to no job any more."""
        before = datetime.now(UTC) - older_than
        left = select(_jobs.c.id).where(_jobs.c.batch_id == BatchRow.id)
        async with self._db.write() as db:
            await db.execute(delete(_jobs).where(_jobs.c.id.in_(job_ids), *_expired(older_than)))
            await db.execute(
                delete(BatchRow).where(BatchRow.created_at < before, ~left.exists()),
                execution_options={"synchronize_session": False},
            )
            await db.execute(delete(JobCallRow).where(JobCallRow.started_at < before.timestamp()))


def _expired(older_than: timedelta) -> tuple[ColumnElement[bool], ...]:
    before = datetime.now(UTC) - older_than
    return (_jobs.c.state.in_(("done", "failed", "cancelled")), _jobs.c.ended_at < before)


async def _select(db: AsyncSession, *what: Any) -> list[Job]:
    condition, *order = what
    rows = await db.execute(select(*COLUMNS).where(condition).order_by(*order))
    return [job_of(row) for row in rows]


async def one_job(db: AsyncSession, job_id: str) -> Job:
    """A job within the caller's transaction. Raises `NotFoundError`."""
    found = await _select(db, _jobs.c.id == job_id)
    if not found:
        raise NotFoundError(f"there is no job {job_id}")
    return found[0]


def job_of(row: Any) -> Job:
    """The job in a row that has `COLUMNS`."""
    return Job(**{name: row._mapping[name] for name in Job.__dataclass_fields__})
