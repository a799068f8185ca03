"""What all masters on a database share and nobody else may have."""

from __future__ import annotations

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from master.state.database import Transactions
from master.state.tables import ClusterSecretRow


class SecretRepository:
    """Values by name."""

    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def get(self, name: str) -> str | None:
        async with self._db.read() as db:
            return await db.scalar(select(ClusterSecretRow.value).where(ClusterSecretRow.name == name))

    async def keep_first(self, name: str, value: str) -> str:
        """Keep a value unless there is one; the value that is kept."""
        try:
            async with self._db.write() as db:
                await db.execute(insert(ClusterSecretRow).values(name=name, value=value))
        except IntegrityError:
            return await self.get(name) or value
        return value

    async def replace(self, name: str, value: str) -> None:
        async with self._db.write() as db:
            await db.execute(
                update(ClusterSecretRow).where(ClusterSecretRow.name == name).values(value=value)
            )
