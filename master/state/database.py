"""The one place that knows SQLite from PostgreSQL: addresses, connections, files, transactions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from common.errors import SettingsError, StorageBusyError, StorageFullError
from common.private import keep_private
from master.state.storage_errors import translate

_BUSY_TIMEOUT_MS = 5000
# A server that restarts is back in a few seconds: until then nobody is told that it failed.
_RECONNECT_S = 10.0
_RECONNECT_PAUSE_S = 0.2
APPLICATION = "lan-council"  # how a server lists our connections
_SERVER = {
    "application_name": APPLICATION,
    "connect_timeout": 5,
    # A server whose machine or network went away without a word is noticed within ten seconds.
    "keepalives": 1,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms; libpq ignores it where the system has none
    "options": "-c lock_timeout=5s -c statement_timeout=30s -c idle_in_transaction_session_timeout=60s",
}
_LEAST_FREE_BYTES = 4 * 1024 * 1024
T = TypeVar("T")
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
}


Address = URL
"""Where a database is, for who only passes it on."""


def parse_address(address: str) -> URL:
    """`COUNCIL_DATABASE_URL` as a URL with an async driver. Raises `SettingsError`, without the password."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError) as error:
        raise SettingsError(
            "the database address cannot be read; it looks like sqlite:///FOLDER/council.db or "
            "postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from error
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def database_file(url: URL) -> Path | None:
    """The file of a SQLite database; `None` for one in memory and for a server."""
    name = url.database or ""
    return Path(name) if is_sqlite(url) and name and not name.startswith((":memory:", "file:")) else None


def open_engine(url: URL) -> AsyncEngine:
    """An engine whose every connection is set up for us. Nothing is connected yet. Raises `SettingsError`."""
    try:
        if is_sqlite(url):
            engine = create_async_engine(url)
        else:
            engine = create_async_engine(
                url, pool_pre_ping=True, pool_timeout=_RECONNECT_S, connect_args=server_options(url)
            )
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"this kind of database needs the Python package {error.name}; install it with "
            f"`pip install {error.name}`"
        ) from error
    except (NoSuchModuleError, SQLAlchemyError) as error:
        raise SettingsError(f"the database address cannot be used: {error}") from error
    if is_sqlite(url):
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_for_writing)
    return engine


def server_options(url: URL) -> dict[str, Any]:
    """How to connect to a server: our timeouts, unless the address says otherwise."""
    if url.get_driver_name() != "psycopg":
        return {}
    return {name: value for name, value in _SERVER.items() if name not in url.query}


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # sqlite3 must not open transactions by itself: `_begin_for_writing` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    # In WAL mode NORMAL keeps every commit through the death of the process (kill -9 included): the pages are
    # with the operating system before the commit returns. Only a power cut may take the last ones, and then
    # whole transactions. FULL would add a disk flush to each of our small writes.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
    # SQLite's own `lower` knows ASCII only; people also search in Greek and German.
    connection.run_async(lambda driver: driver.create_function("lower", 1, _lower, deterministic=True))


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _begin_for_writing(connection: Any) -> None:
    """Take the write lock at once: a transaction that reads first could not be upgraded later."""
    reading = connection.get_execution_options().get("reading")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def prepare_folder(data_dir: Path) -> None:
    """Make the data folder, for its owner alone. Raises `StorageFullError`.

    A folder that is there already keeps its mode: it may be a home folder, or shared on purpose. On Windows
    it loses what it has from the folder around it, not what somebody gave it.
    """
    try:
        if not data_dir.is_dir():
            data_dir.parent.mkdir(parents=True, exist_ok=True)
            data_dir.mkdir(mode=0o700, exist_ok=True)
        keep_private(data_dir)
    except OSError as error:
        raise StorageFullError(
            f"cannot use the data folder {data_dir} ({error.strerror}); choose another with --data-dir"
        ) from error


def protect_file(file: Path) -> None:
    """Make the database file with mode 0600, for it holds keys and conversations; SQLite gives its
    companion files the same mode. Raises `StorageFullError`.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600, exist_ok=True)
        keep_private(file)
        if sys.platform != "win32":
            with contextlib.suppress(PermissionError):  # somebody else's file: as its owner wants it
                os.chmod(file, 0o600)
    except OSError as error:
        raise StorageFullError(f"cannot write {file} ({error.strerror})") from error


def require_space(file: Path) -> None:
    """Raise `StorageFullError` when the next write may find no room."""
    try:
        free = shutil.disk_usage(file.parent).free
    except OSError as error:
        raise StorageFullError(f"cannot reach {file.parent} ({error.strerror})") from error
    if free < _LEAST_FREE_BYTES:
        raise StorageFullError(f"{free // 1024} KiB are free where {file} lives; free some space")


class Transactions:
    """`write` and `read` give a session in one transaction.

    Foreign errors come out as ours, except `IntegrityError`: what a broken constraint means is for the
    repository to say.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._server = None if engine.dialect.name == "sqlite" else engine
        self._writers = async_sessionmaker(engine, expire_on_commit=False)
        self._readers = async_sessionmaker(
            engine.execution_options(reading=True), expire_on_commit=False, autoflush=False
        )
        # SQLite has one writer at a time and lets the others sleep and poll; here they queue in order, and a
        # crowd of writers costs none of them a busy wait.
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else None

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        try:
            async with self._turn or contextlib.nullcontext(), self._begun(self._writers) as session:
                yield session
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            raise translate(error) from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        try:
            async with self._begun(self._readers) as session:
                yield session
        except (SQLAlchemyError, OSError) as error:
            raise translate(error) from error

    async def repeat(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in a transaction that writes; once more where its connection broke.

        Only for what may be done twice: a commit whose answer was lost has happened.
        """
        try:
            async with self.write() as db:
                return await work(db)
        except StorageBusyError as error:
            cause = error.__cause__
            if not isinstance(cause, DBAPIError) or not cause.connection_invalidated:
                raise
        async with self.write() as db:
            return await work(db)

    @asynccontextmanager
    async def _begun(self, sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
        if self._server is None:
            async with sessions.begin() as session:
                yield session
            return
        async with contextlib.AsyncExitStack() as stack:
            bind = await self._connected(self._server, stack)
            session = await stack.enter_async_context(sessions(bind=bind))
            async with session.begin():
                yield session

    async def _connected(self, server: AsyncEngine, stack: contextlib.AsyncExitStack) -> AsyncConnection:
        """A connection that works, waited for while the server restarts: nothing was begun yet."""
        deadline = time.monotonic() + _RECONNECT_S
        while True:
            try:
                return await stack.enter_async_context(server.connect())
            except (OperationalError, OSError):
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(_RECONNECT_PAUSE_S)
