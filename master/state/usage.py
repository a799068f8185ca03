"""What machines and engines took, by the minute; when people are there, by hour of the week."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import delete, select

from master.background.pattern import HourOfWeek
from master.cluster.usage_minutes import UsageMinute
from master.state.database import Transactions
from master.state.tables import ActivityHourRow, UsageMinuteRow


class UsageRepository:
    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def keep(self, minutes: Sequence[UsageMinute]) -> None:
        """Store these, over what there is of the same minutes. Raises a storage error."""
        async with self._db.write() as db:
            for one in minutes:
                await db.merge(
                    UsageMinuteRow(
                        node=one.node,
                        part=one.part,
                        at=one.at,
                        cpu_percent=one.cpu_percent,
                        cpu_max=one.cpu_max,
                        memory_bytes=one.memory_bytes,
                    )
                )

    async def prune(self, before: float) -> None:
        """Forget what began before that Unix time."""
        async with self._db.write() as db:
            await db.execute(delete(UsageMinuteRow).where(UsageMinuteRow.at < int(before)))

    async def since(self, since: float, *, node: str | None = None) -> list[UsageMinute]:
        """What began at that Unix time or later, on a node or on all, oldest first."""
        wanted = select(UsageMinuteRow).where(UsageMinuteRow.at >= int(since)).order_by(UsageMinuteRow.at)
        if node is not None:
            wanted = wanted.where(UsageMinuteRow.node == node)
        async with self._db.read() as db:
            return [
                UsageMinute(row.node, row.part, row.at, row.cpu_percent, row.cpu_max, row.memory_bytes)
                for row in await db.scalars(wanted)
            ]


class ActivityRepository:
    """One row for each hour of the week that was watched."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def keep(self, hour: int, learned: HourOfWeek) -> None:
        async with self._db.write() as db:
            await db.merge(
                ActivityHourRow(
                    hour=hour,
                    active=learned.active,
                    watched=learned.watched,
                    updated_at=datetime.now(UTC),
                )
            )

    async def list(self) -> dict[int, HourOfWeek]:
        async with self._db.read() as db:
            rows = await db.scalars(select(ActivityHourRow))
            return {row.hour: HourOfWeek(row.active, row.watched) for row in rows}

    async def clear(self) -> None:
        """Forget when people are there."""
        async with self._db.write() as db:
            await db.execute(delete(ActivityHourRow))
