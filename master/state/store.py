"""The open database: locked, migrated, with its repositories."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import update
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from common.errors import SettingsError
from master.state import migrate
from master.state.access import AccessRepository
from master.state.archives import ArchiveRepository
from master.state.cluster_secrets import SecretRepository
from master.state.data_lock import DataLock
from master.state.database import (
    Transactions,
    database_file,
    open_engine,
    parse_address,
    prepare_folder,
    protect_file,
    require_space,
)
from master.state.job_calls import JobCallRepository
from master.state.job_control import JobControl
from master.state.job_queue import JobQueue
from master.state.jobs import JobRepository
from master.state.nodes import NodeRepository
from master.state.pulse import Pulse
from master.state.schedules import ScheduleRepository
from master.state.sessions import SessionRepository
from master.state.speeds import SpeedRepository
from master.state.tables import PulseRow
from master.state.usage import ActivityRepository, UsageRepository


class Store:
    """Open it with `Store.open`; close it with `close`."""

    def __init__(self, engine: AsyncEngine, locks: ExitStack, file: Path | None) -> None:
        self._engine = engine
        self._locks = locks
        self._file = file
        self._transactions = Transactions(engine)
        self.pulse = Pulse(self.check)
        self.sessions = SessionRepository(self._transactions)
        self.nodes = NodeRepository(self._transactions)
        self.access = AccessRepository(self._transactions)
        self.speeds = SpeedRepository(self._transactions)
        self.secrets = SecretRepository(self._transactions)
        self.usage = UsageRepository(self._transactions)
        self.activity = ActivityRepository(self._transactions)
        self.archives = ArchiveRepository(self._transactions)
        self.jobs = JobRepository(self._transactions)
        self.job_queue = JobQueue(self._transactions)
        self.job_control = JobControl(self._transactions)
        self.job_calls = JobCallRepository(self._transactions)
        self.schedules = ScheduleRepository(self._transactions)

    @classmethod
    async def open(cls, url: str, *, data_dir: Path) -> Store:
        """Lock the data folder (one master each), bring the tables up to date, and open.

        Raises `SettingsError` (somebody else's folder, a newer database, an address that cannot be read) and
        storage errors.
        """
        address = parse_address(url)
        with ExitStack() as locks:
            await asyncio.to_thread(_take_files, address, data_dir, locks)
            engine = open_engine(address)
            try:
                await migrate.to_head(engine)
            except BaseException:
                await engine.dispose()
                raise
            return cls(engine, locks.pop_all(), database_file(address))

    @classmethod
    async def join(cls, url: str) -> Store:
        """Open the database of a master that has made it, beside that master.

        Raises `SettingsError` where there is none, or one of another version, and storage errors.
        """
        address = parse_address(url)
        file = database_file(address)
        if file is not None and not await asyncio.to_thread(file.exists):
            raise SettingsError(
                f"there is no database {file}; start the master first, or name its --data-dir"
            )
        engine = open_engine(address)
        try:
            await migrate.require_head(engine)
        except BaseException:
            await engine.dispose()
            raise
        return cls(engine, ExitStack(), file)

    async def close(self) -> None:
        """Close every connection, then give the folder back."""
        try:
            await self._engine.dispose()
        finally:
            self._locks.close()

    async def check(self) -> None:
        """Write one small row. Raises a storage error when that or the next write fails."""
        if self._file is not None:
            await asyncio.to_thread(require_space, self._file)
        async with self._transactions.write() as db:
            await db.execute(update(PulseRow).values(at=datetime.now(UTC)))


def _take_files(address: URL, data_dir: Path, locks: ExitStack) -> None:
    """Lock the data folder, and the database where it lies elsewhere: two folders may name one file."""
    prepare_folder(data_dir)
    _hold(locks, data_dir / "master.lock")
    file = database_file(address)
    if file is None:
        return
    protect_file(file)
    if file.resolve().parent != data_dir.resolve():
        _hold(locks, file.with_name(f"{file.name}.lock"))


def _hold(locks: ExitStack, path: Path) -> None:
    lock = DataLock(path)
    lock.acquire()
    locks.callback(lock.release)
