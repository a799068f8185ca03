"""The one place that knows SQLite from PostgreSQL, and where foreign errors become ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from common.errors import CouncilError, InternalError, SettingsError, StorageBusyError, StorageFullError

_BUSY_TIMEOUT_MS = 5000
_FULL = (
    "disk is full",
    "readonly",
    "read-only",
    "unable to open",
    "disk i/o error",
    "no space",
    "not authorized",
)


def is_sqlite(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


def open_engine(url: str) -> AsyncEngine:
    """An engine whose every connection is set up for us. Nothing is connected yet."""
    try:
        engine = create_async_engine(url, pool_pre_ping=not is_sqlite(url))
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        raise SettingsError(f"the database address cannot be used: {error}") from error
    if is_sqlite(url):
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_for_writing)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # sqlite3 must not open transactions by itself: `_begin_for_writing` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # In WAL mode NORMAL keeps every commit through the death of the process; only a power cut may take
    # the last ones, and then whole transactions.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.close()


def _begin_for_writing(connection: Any) -> None:
    """Take the write lock at once: a transaction that reads first could not be upgraded later."""
    connection.exec_driver_sql(
        "BEGIN IMMEDIATE" if not connection.get_execution_options().get("reading") else "BEGIN"
    )


def prepare_folder(data_dir: Path) -> None:
    """Make the data folder, for its owner alone. Raises `StorageFullError`."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if sys.platform != "win32":
            with contextlib.suppress(PermissionError):  # a folder that is shared on purpose stays as it is
                os.chmod(data_dir, 0o700)
    except OSError as error:
        raise StorageFullError(
            f"cannot use the data folder {data_dir} ({error.strerror}); choose another with --data-dir"
        ) from error


def protect_file(url: str) -> None:
    """Mode 0600 on the database file where the system has modes; it holds keys and conversations."""
    path = make_url(url).database
    if sys.platform != "win32" and is_sqlite(url) and path and path != ":memory:":
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600, exist_ok=True)
        with contextlib.suppress(PermissionError):
            os.chmod(file, 0o600)


def translate(error: Exception) -> CouncilError:
    """A foreign error in our words, for the caller to raise `from` it."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(original).lower()
    if any(sign in text for sign in _FULL) or isinstance(original, PermissionError | FileNotFoundError):
        return StorageFullError(f"the database cannot be written: {original}; free some space and try again")
    if "locked" in text or "busy" in text:
        return StorageBusyError("the database is locked by another program; try again", retry_after_s=2.0)
    if isinstance(original, sqlite3.DatabaseError) and "malformed" in text:
        return InternalError("the database file is damaged; restore a backup of it")
    return InternalError(f"the database failed: {original}")


class Transactions:
    """`write` and `read` give a session in one transaction; errors come out as ours, conflicts as they are."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._writers = async_sessionmaker(engine, expire_on_commit=False)
        self._readers = async_sessionmaker(
            engine.execution_options(reading=True), expire_on_commit=False, autoflush=False
        )

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        try:
            async with self._writers.begin() as session:
                yield session
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            raise translate(error) from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        try:
            async with self._readers.begin() as session:
                yield session
        except (SQLAlchemyError, OSError) as error:
            raise translate(error) from error
