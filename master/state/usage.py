"""What machines and engines took, by the minute; when people are there, by hour of the week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, inspect, select
from sqlalchemy.dialects import postgresql, sqlite

from master.background.pattern import HourOfWeek
from master.cluster.usage_minutes import UsageMinute
from master.state.database import Transactions
from master.state.tables import ActivityHourRow, Base, UsageMinuteRow


class UsageRepository:
    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def keep(self, minutes: Sequence[UsageMinute]) -> None:
        """Store these, over what there is of the same minutes. Raises a storage error."""
        # In one order, so that two masters that write the same rows do not wait for each other in a circle.
        ordered = sorted(minutes, key=lambda one: (one.node, one.part, one.at))
        await _put(self._db, UsageMinuteRow, [asdict(one) for one in ordered])

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
        row = {"hour": hour, **asdict(learned), "updated_at": datetime.now(UTC)}
        await _put(self._db, ActivityHourRow, [row])

    async def list(self) -> dict[int, HourOfWeek]:
        async with self._db.read() as db:
            rows = await db.scalars(select(ActivityHourRow))
            return {row.hour: HourOfWeek(row.active, row.watched) for row in rows}

    async def clear(self) -> None:
        """Forget when people are there."""
        async with self._db.write() as db:
            await db.execute(delete(ActivityHourRow))


async def _put(transactions: Transactions, table: type[Base], rows: list[dict[str, Any]]) -> None:
    """Write these rows, over those of the same keys: several masters may write them at the same moment."""
    if not rows:
        return
    keys = [column.name for column in inspect(table).primary_key]
    async with transactions.write() as db:
        insert = postgresql.insert if db.get_bind().dialect.name == "postgresql" else sqlite.insert
        fresh = insert(table).values(rows)
        others = {name: fresh.excluded[name] for name in rows[0] if name not in keys}
        await db.execute(fresh.on_conflict_do_update(index_elements=keys, set_=others))
