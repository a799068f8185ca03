"""The open database: locked, migrated, with its repositories."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from master.state import migrate
from master.state.data_lock import DataLock
from master.state.database import Transactions, is_sqlite, open_engine, prepare_folder, protect_file
from master.state.nodes import NodeRepository
from master.state.sessions import SessionRepository


class Store:
    """Open it with `Store.open`; close it with `close`."""

    def __init__(self, engine: AsyncEngine, lock: DataLock | None) -> None:
        self._engine = engine
        self._lock = lock
        self._transactions = Transactions(engine)
        self.sessions = SessionRepository(self._transactions)
        self.nodes = NodeRepository(self._transactions)

    @classmethod
    async def open(cls, url: str, *, data_dir: Path) -> Store:
        """Lock the data folder (SQLite has one master), bring the tables up to date, and open.

        Raises `SettingsError` (somebody else's folder, a newer database) and storage errors.
        """
        lock: DataLock | None = None
        if is_sqlite(url):
            prepare_folder(data_dir)
            lock = DataLock(data_dir)
            lock.acquire()
        engine: AsyncEngine | None = None
        try:
            protect_file(url)
            engine = open_engine(url)
            await migrate.to_head(engine)
        except BaseException:
            if engine is not None:
                await engine.dispose()
            if lock is not None:
                lock.release()
            raise
        return cls(engine, lock)

    async def close(self) -> None:
        await self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    async def check(self) -> None:
        """Raise a storage error when the database takes no writes."""
        async with self._transactions.write() as db:
            await db.execute(text("SELECT 1"))
