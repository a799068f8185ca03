"""Jobs that are submitted again and again: moved on and submitted in one transaction, so once each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Update, delete, insert, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import IntegrityError

from common.errors import ConflictError, NotFoundError
from master.state.database import Transactions
from master.state.job_tables import ScheduleRow
from master.state.jobs import Added, JobRepository, NewJob


@dataclass(frozen=True, slots=True)
class Schedule:
    """`cron` has five fields and is meant in the local time of the master."""

    name: str
    type: str
    input: dict[str, Any]
    cron: str
    priority: int | None
    next_at: datetime
    last_at: datetime | None = None


class ScheduleRepository:
    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def add(self, schedule: Schedule) -> None:
        """Raises `ConflictError` when the name is taken."""
        try:
            async with self._db.write() as db:
                await db.execute(
                    insert(ScheduleRow).values(
                        name=schedule.name,
                        type=schedule.type,
                        input=schedule.input,
                        cron=schedule.cron,
                        priority=schedule.priority,
                        next_at=schedule.next_at,
                        created_at=datetime.now(UTC),
                    )
                )
        except IntegrityError as error:
            raise ConflictError(f"there is a schedule named {schedule.name}; remove it first") from error

    async def remove(self, name: str) -> None:
        """Raises `NotFoundError`."""
        async with self._db.write() as db:
            gone = await db.execute(delete(ScheduleRow).where(ScheduleRow.name == name))
            if cast("CursorResult[object]", gone).rowcount == 0:
                raise NotFoundError(f"there is no schedule named {name}; `council jobs schedule list`")

    async def list(self, *, due: datetime | None = None) -> Sequence[Schedule]:
        """All of them by name, or those that are due."""
        query = select(ScheduleRow).order_by(ScheduleRow.name)
        if due is not None:
            query = query.where(ScheduleRow.next_at <= due)
        async with self._db.read() as db:
            return [
                Schedule(one.name, one.type, one.input, one.cron, one.priority, one.next_at, one.last_at)
                for one in await db.scalars(query)
            ]

    async def fire(self, schedule: Schedule, job: NewJob, next_at: datetime) -> Added | None:
        """Submit its job and move it on; `None` where somebody else did so for this time."""
        async with self._db.write() as db:
            moved = await db.execute(_move(schedule, next_at, last_at=schedule.next_at))
            if cast("CursorResult[object]", moved).rowcount == 0:
                return None
            return await JobRepository.add(db, job)

    async def skip(self, schedule: Schedule, next_at: datetime) -> None:
        """Move it on without a job."""
        async with self._db.write() as db:
            await db.execute(_move(schedule, next_at, last_at=schedule.last_at))


def _move(schedule: Schedule, next_at: datetime, *, last_at: datetime | None) -> Update:
    """Nothing where somebody else has moved it on."""
    return (
        update(ScheduleRow)
        .where(ScheduleRow.name == schedule.name, ScheduleRow.next_at == schedule.next_at)
        .values(next_at=next_at, last_at=last_at)
        .execution_options(synchronize_session=False)
    )
