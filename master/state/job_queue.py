"""The queue as executors use it: claimed in the order of priority, settled by the owner, taken from the dead.

An executor settles only what it still owns: one that was thought dead, and whose job another took up, changes
nothing any more.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, func, or_, select, update

from master.state.database import Transactions
from master.state.job_tables import READY, JobCallRow, JobRow
from master.state.jobs import COLUMNS, Job, job_of

_jobs: Table = JobRow.__table__  # type: ignore[assignment]  # declared as FromClause


class JobQueue:
    """What executors do; `owner` is the id of the one that does it."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    # -- taking up ----------------------------------------------------------------------------------------

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
                .returning(*COLUMNS, _jobs.c.position)
            )
            rows = (await connection.execute(taken)).all()
        rows = sorted(rows, key=lambda row: (row.priority, row.created_at, row.position, row.id))
        return [job_of(row) for row in rows]

    async def next_due(self, now: datetime) -> float | None:
        """Seconds until some job is due; 0 when one is, `None` when none waits."""
        async with self._db.read() as db:
            if await db.scalar(select(_jobs.c.id).where(_is_due(now)).limit(1)) is not None:
                return 0.0
            first = await db.scalar(select(func.min(_jobs.c.not_before)).where(_jobs.c.state.in_(READY)))
        return None if first is None else max(0.0, (_utc(first) - now).total_seconds())

    # -- settling -----------------------------------------------------------------------------------------

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

    # -- owners -------------------------------------------------------------------------------------------

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


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(_jobs.c.state.in_(READY), or_(_jobs.c.not_before.is_(None), _jobs.c.not_before <= now))


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
