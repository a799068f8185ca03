"""What was learned of the speed of models on nodes, so that a restarted master places calls as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import cast

from sqlalchemy import select

from master.cluster.speeds import Learned, Quantity
from master.state.database import Transactions
from master.state.tables import SpeedRow


class SpeedRepository:
    """A row per node, engine, model and quantity; `model` is empty for what belongs to a whole engine."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def keep(self, rows: Iterable[Learned]) -> None:
        """Write these, over what was kept of them before. Raises a storage error."""
        now = datetime.now(UTC)
        async with self._db.write() as db:
            for row in rows:
                await db.merge(
                    SpeedRow(
                        node=row.node,
                        engine=row.engine,
                        model=row.model,
                        quantity=row.quantity,
                        value=row.value,
                        usual=row.usual,
                        samples=row.samples,
                        updated_at=now,
                    )
                )

    async def list(self) -> list[Learned]:
        async with self._db.read() as db:
            rows = await db.scalars(select(SpeedRow))
            return [_learned(row) for row in rows]

    async def of_node(self, node: str) -> Sequence[Learned]:
        """What was learned on one node, by model."""
        wanted = select(SpeedRow).where(SpeedRow.node == node).order_by(SpeedRow.model, SpeedRow.quantity)
        async with self._db.read() as db:
            return [_learned(row) for row in await db.scalars(wanted)]


def _learned(row: SpeedRow) -> Learned:
    quantity = cast(Quantity, row.quantity)
    return Learned(row.node, row.engine, row.model, quantity, row.value, row.samples, row.usual)
