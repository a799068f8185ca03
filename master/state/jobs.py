"""Jobs: added in anybody's transaction, claimed in the order of their priority, settled by their owner.

An executor settles only what it still owns: one that was thought dead, and whose job another took up, changes
nothing any more.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, Select, Table, and_, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession

from common.errors import ConflictError, NotFoundError
from master.state import listing
from master.state.database import Transactions
from master.state.job_tables import PENDING, BatchRow, JobCallRow, JobRow, QueueRow

JobState = Literal["queued", "waiting", "running", "done", "failed", "dead", "cancelled"]
MOST_AT_ONCE = 500
_KEY_TRIES = 10
_jobs: Table = JobRow.__table__  # type: ignore[assignment]  # declared as FromClause
_READY = ("queued", "waiting")


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


_COLUMNS = tuple(_jobs.c[name] for name in Job.__dataclass_fields__)


class JobRepository:
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

    # -- running ------------------------------------------------------------------------------------------

    async def claim(
        self,
        owner: str,
        types: Collection[str],
        *,
        limit: int,
        now: datetime,
        long: bool = True,
        most_running: int | None = None,
    ) -> list[Job]:
        """Take up to `limit` due jobs of these types, the most urgent first, the oldest of equals first.

        `long`: whether long ones may start now. `most_running`: of all executors together.
        """
        due = (
            select(_jobs.c.id)
            .where(_is_due(now), _jobs.c.type.in_(types))
            .order_by(_jobs.c.priority, _jobs.c.created_at, _jobs.c.position, _jobs.c.id)
            .with_for_update(skip_locked=True)
        )
        if not long:
            # One that had started goes on: to stop it again would cost what it has loaded.
            due = due.where(or_(_jobs.c.long.is_(False), _jobs.c.started_at.is_not(None)))
        async with self._db.write() as db:
            connection = await db.connection()
            if most_running is not None:
                running = select(func.count()).where(_jobs.c.state == "running")
                limit = min(limit, most_running - ((await connection.execute(running)).scalar() or 0))
            if limit <= 0:
                return []
            # No plain subquery: PostgreSQL may run that anew for each row, and take more than the limit.
            picked = due.limit(limit).cte("picked")
            taken = (
                update(_jobs)
                .where(_jobs.c.id.in_(select(picked.c.id)))
                .values(
                    state="running",
                    owner=owner,
                    cancelling=False,
                    handed=_jobs.c.handed + 1,
                    not_before=None,
                    started_at=func.coalesce(_jobs.c.started_at, now),
                )
                .returning(*_COLUMNS, _jobs.c.position)
            )
            rows = (await connection.execute(taken)).all()
        rows = sorted(rows, key=lambda row: (row.priority, row.created_at, row.position, row.id))
        return [_job(row) for row in rows]

    async def finish(self, job_id: str, owner: str, result: dict[str, Any] | None) -> bool:
        """The job is done; false where it is no longer this owner's."""
        return await self._settle(job_id, owner, "done", result=result, cause=None)

    async def bury(self, job_id: str, owner: str, cause: dict[str, Any], *, attempts: int) -> bool:
        """A dead letter, with its cause."""
        return await self._settle(job_id, owner, "dead", cause=cause, attempts=attempts)

    async def cancelled(self, job_id: str, owner: str) -> bool:
        """The job has stopped because it was cancelled."""
        return await self._settle(job_id, owner, "cancelled", cause=None)

    async def _settle(self, job_id: str, owner: str, state: str, **values: Any) -> bool:
        return await self._change(
            job_id,
            owner,
            {
                "state": state,
                "owner": None,
                "again": False,
                "not_before": None,
                "ended_at": datetime.now(UTC),
                **values,
            },
        )

    async def put_back(
        self,
        job_id: str,
        owner: str,
        *,
        cause: dict[str, Any] | None = None,
        not_before: datetime | None = None,
        attempts: int | None = None,
        pauses: int | None = None,
    ) -> bool:
        """Back in the queue: at its old place, or `waiting` until `not_before`."""
        values: dict[str, Any] = {
            "state": "queued" if not_before is None else "waiting",
            "owner": None,
            "not_before": not_before,
            "cause": cause,
        }
        if attempts is not None:
            values["attempts"] = attempts
        if pauses is not None:
            values["pauses"] = pauses
        return await self._change(job_id, owner, values)

    async def progress(self, job_id: str, owner: str, done: int, total: int, note: str) -> bool:
        """How far it is. What it got on with wipes earlier pauses out."""
        values = {"done": done, "total": total, "note": note[:500], "pauses": 0}
        return await self._change(job_id, owner, values)

    async def _change(self, job_id: str, owner: str, values: dict[str, Any]) -> bool:
        change = update(_jobs).where(_jobs.c.id == job_id, _jobs.c.owner == owner, _jobs.c.state == "running")
        async with self._db.write() as db:
            connection = await db.connection()
            return (await connection.execute(change.values(values))).rowcount == 1

    async def owners(self) -> set[str]:
        """Who owns running jobs."""
        async with self._db.read() as db:
            found = await db.scalars(select(_jobs.c.owner).where(_jobs.c.state == "running").distinct())
            return {owner for owner in found if owner}

    async def take_from(self, owner: str, *, keep: Collection[str] = ()) -> list[str]:
        """Queue again, at their old places, what an executor left; its calls count as interrupted.

        `keep`: jobs that it still runs.
        """
        left = and_(_jobs.c.state == "running", _jobs.c.owner == owner, _jobs.c.id.not_in(keep))
        async with self._db.write() as db:
            ids = list(await db.scalars(select(_jobs.c.id).where(left)))
            if ids:
                await db.execute(
                    update(_jobs)
                    .where(_jobs.c.id.in_(ids), _jobs.c.cancelling.is_(True))
                    .values(state="cancelled", owner=None, ended_at=datetime.now(UTC))
                )
                await db.execute(
                    update(_jobs)
                    .where(_jobs.c.id.in_(ids), _jobs.c.state == "running")
                    .values(state="queued", owner=None)
                )
            interrupted = update(JobCallRow).where(JobCallRow.owner == owner, JobCallRow.outcome == "running")
            if keep:
                interrupted = interrupted.where(JobCallRow.job_id.not_in(keep))
            await db.execute(
                interrupted.values(
                    outcome="interrupted", usage_unknown=True, ended_at=datetime.now(UTC).timestamp()
                )
            )
        return ids

    async def cancelling(self, owner: str) -> list[str]:
        """Running jobs of this owner that somebody cancels."""
        wanted = select(_jobs.c.id).where(
            _jobs.c.state == "running", _jobs.c.owner == owner, _jobs.c.cancelling.is_(True)
        )
        async with self._db.read() as db:
            return list(await db.scalars(wanted))

    # -- what people do -----------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> Job:
        """Cancel what waits, ask its owner to stop what runs. Raises `NotFoundError` and `ConflictError`."""
        async with self._db.write() as db:
            job = await _one(db, job_id)
            if job.state in _READY:
                values: dict[str, Any] = {"state": "cancelled", "ended_at": datetime.now(UTC)}
            elif job.state == "running":
                values = {"cancelling": True}
            else:
                raise ConflictError(f"the job has ended already ({job.state})")
            await db.execute(update(_jobs).where(_jobs.c.id == job_id).values(values))
            return await _one(db, job_id)

    async def retry(self, job_id: str) -> Job:
        """Open another run of a job that died, was cancelled or dismissed; its finished steps count.

        Raises `NotFoundError`, and `ConflictError` for one that is pending or done, or where another one with
        its key is pending.
        """
        async with self._db.write() as db:
            job = await _one(db, job_id)
            if job.state not in ("dead", "cancelled", "failed"):
                raise ConflictError(
                    f"only a job that failed or was cancelled can be retried; this is {job.state}"
                )
            await _refuse_second_of_key(db, job_id)
            await db.execute(update(_jobs).where(_jobs.c.id == job_id).values(_fresh_run()))
            return await _one(db, job_id)

    async def replay(self, type_name: str | None = None) -> int:
        """Open another run of every dead letter (of one type); how many."""
        dead = [_jobs.c.state == "dead"] + ([_jobs.c.type == type_name] if type_name else [])
        other = _jobs.alias()
        taken = (
            select(other.c.id)
            .where(other.c.dedup_key == _jobs.c.dedup_key, other.c.state.in_(PENDING))
            .exists()
        )
        # Of several dead ones with one key the oldest is run: the others would be the same work.
        older = (
            select(other.c.id)
            .where(
                other.c.dedup_key == _jobs.c.dedup_key,
                other.c.state == "dead",
                or_(
                    other.c.created_at < _jobs.c.created_at,
                    and_(other.c.created_at == _jobs.c.created_at, other.c.id < _jobs.c.id),
                ),
            )
            .exists()
        )
        async with self._db.write() as db:
            change = update(_jobs).where(*dead, ~taken, ~older).values(_fresh_run())
            return _rows(await db.execute(change, execution_options={"synchronize_session": False}))

    async def dismiss(self, job_id: str) -> None:
        """Take a dead letter off its list: from now on it is a failed job like others, kept for a while.

        Raises `NotFoundError` and `ConflictError`.
        """
        async with self._db.write() as db:
            job = await _one(db, job_id)
            if job.state != "dead":
                raise ConflictError(f"only a dead letter can be dismissed; this job is {job.state}")
            await db.execute(update(_jobs).where(_jobs.c.id == job_id).values(state="failed"))

    async def dismiss_all(self) -> int:
        async with self._db.write() as db:
            return _rows(
                await db.execute(update(_jobs).where(_jobs.c.state == "dead").values(state="failed"))
            )

    async def pause(self, paused: bool, reason: str = "") -> None:
        """Pause or resume the whole queue, for every executor and across restarts."""
        async with self._db.write() as db:
            await db.merge(QueueRow(id=1, paused=paused, reason=reason[:500]))

    # -- reading ------------------------------------------------------------------------------------------

    async def get(self, job_id: str) -> Job:
        """Raises `NotFoundError`."""
        async with self._db.read() as db:
            return await _one(db, job_id)

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
        query: Select[Any] = select(*_COLUMNS).order_by(_jobs.c.created_at.desc(), _jobs.c.id.desc())
        if states:
            query = query.where(_jobs.c.state.in_(states))
        if type_name:
            query = query.where(_jobs.c.type == type_name)
        query = listing.after(query, _jobs.c.created_at, _jobs.c.id, cursor).limit(limit + 1)
        async with self._db.read() as db:
            found = [_job(row) for row in await db.execute(query)]
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

    async def next_due(self, now: datetime) -> float | None:
        """Seconds until some job is due; 0 when one is, `None` when none waits."""
        async with self._db.read() as db:
            if await db.scalar(select(_jobs.c.id).where(_is_due(now)).limit(1)) is not None:
                return 0.0
            first = await db.scalar(select(func.min(_jobs.c.not_before)).where(_jobs.c.state.in_(_READY)))
        return None if first is None else max(0.0, (_utc(first) - now).total_seconds())

    async def paused(self) -> tuple[bool, str]:
        """Whether people paused the queue, and why."""
        async with self._db.read() as db:
            row = await db.get(QueueRow, 1)
            return (row.paused, row.reason) if row is not None else (False, "")

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


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(_jobs.c.state.in_(_READY), or_(_jobs.c.not_before.is_(None), _jobs.c.not_before <= now))


def _fresh_run() -> dict[str, Any]:
    return {
        "state": "queued",
        "run": _jobs.c.run + 1,
        "attempts": 0,
        "pauses": 0,
        "again": True,
        "cancelling": False,
        "cause": None,
        "not_before": None,
        "ended_at": None,
    }


async def _refuse_second_of_key(db: AsyncSession, job_id: str) -> None:
    other = _jobs.alias()
    same = (
        select(other.c.id)
        .join(_jobs, _jobs.c.dedup_key == other.c.dedup_key)
        .where(_jobs.c.id == job_id, other.c.state.in_(PENDING))
    )
    found = (await db.execute(same)).scalar()
    if found is not None:
        raise ConflictError(f"job {found} does the same and is pending")


async def _select(db: AsyncSession, *what: Any) -> list[Job]:
    condition, *order = what
    rows = await db.execute(select(*_COLUMNS).where(condition).order_by(*order))
    return [_job(row) for row in rows]


async def _one(db: AsyncSession, job_id: str) -> Job:
    found = await _select(db, _jobs.c.id == job_id)
    if not found:
        raise NotFoundError(f"there is no job {job_id}")
    return found[0]


def _job(row: Any) -> Job:
    return Job(**{name: row._mapping[name] for name in Job.__dataclass_fields__})


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _rows(result: object) -> int:
    return cast("CursorResult[object]", result).rowcount
