"""What people do with jobs: cancel, retry, replay and dismiss them, and pause the whole queue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Table, and_, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession

from common.errors import ConflictError
from master.state.database import Transactions
from master.state.job_tables import PENDING, READY, JobRow, QueueRow
from master.state.jobs import Job, one_job

_jobs: Table = JobRow.__table__  # type: ignore[assignment]  # declared as FromClause


class JobControl:
    """Changes that people ask for, whoever runs the job."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    # -- one job, or all dead letters ---------------------------------------------------------------------

    async def cancel(self, job_id: str) -> Job:
        """Cancel what waits, ask its owner to stop what runs. Raises `NotFoundError` and `ConflictError`."""
        async with self._db.write() as db:
            job = await one_job(db, job_id)
            if job.state in READY:
                values: dict[str, Any] = {"state": "cancelled", "ended_at": datetime.now(UTC)}
            elif job.state == "running":
                values = {"cancelling": True}
            else:
                raise ConflictError(f"the job has ended already ({job.state})")
            await db.execute(update(_jobs).where(_jobs.c.id == job_id).values(values))
            return await one_job(db, job_id)

    async def retry(self, job_id: str) -> Job:
        """Open another run of a job that died, was cancelled or dismissed; its finished steps count.

        Raises `NotFoundError`, and `ConflictError` for one that is pending or done, or where another one with
        its key is pending.
        """
        async with self._db.write() as db:
            job = await one_job(db, job_id)
            if job.state not in ("dead", "cancelled", "failed"):
                raise ConflictError(
                    f"only a job that failed or was cancelled can be retried; this is {job.state}"
                )
            await _refuse_second_of_key(db, job_id)
            await db.execute(update(_jobs).where(_jobs.c.id == job_id).values(_fresh_run()))
            return await one_job(db, job_id)

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
            job = await one_job(db, job_id)
            if job.state != "dead":
                raise ConflictError(f"only a dead letter can be dismissed; this job is {job.state}")
            await db.execute(update(_jobs).where(_jobs.c.id == job_id).values(state="failed"))

    async def dismiss_all(self) -> int:
        async with self._db.write() as db:
            return _rows(
                await db.execute(update(_jobs).where(_jobs.c.state == "dead").values(state="failed"))
            )

    # -- the whole queue ----------------------------------------------------------------------------------

    async def pause(self, paused: bool, reason: str = "") -> None:
        """Pause or resume the whole queue, for every executor and across restarts."""
        async with self._db.write() as db:
            await db.merge(QueueRow(id=1, paused=paused, reason=reason[:500]))

    async def paused(self) -> tuple[bool, str]:
        """Whether people paused the queue, and why."""
        async with self._db.read() as db:
            row = await db.get(QueueRow, 1)
            return (row.paused, row.reason) if row is not None else (False, "")


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


def _rows(result: object) -> int:
    return cast("CursorResult[object]", result).rowcount
