"""Where the errors of the database drivers become ours, by code and not by wording."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from common.errors import (
    CouncilError,
    InternalError,
    PayloadTooLargeError,
    SettingsError,
    StorageBusyError,
    StorageFullError,
)

_RETRY_AFTER_S = 2.0
_PRIMARY = 0xFF  # SQLite's extended codes carry the primary one in their lowest byte
_POSTGRES_BUSY = ("08", "40", "53", "55P03", "57")  # connection, rollback, resources, lock, shutdown


def translate(error: Exception) -> CouncilError:
    """A foreign error in our words, for the caller to raise `from` it."""
    original: Any = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(error, PoolTimeoutError):
        return StorageBusyError(
            "every database connection is in use; try again", retry_after_s=_RETRY_AFTER_S
        )
    if isinstance(original, sqlite3.Error):
        return _of_sqlite(original)
    state = getattr(original, "sqlstate", None)
    if isinstance(state, str):
        return _of_postgres(state, original)
    # A connection that was refused has no code: the driver gives its reason alone.
    unreachable = isinstance(error, OperationalError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )
    if isinstance(original, OSError) or unreachable:
        return StorageBusyError(
            f"the database does not answer ({_one_line(original)}); see that it runs and lets us in",
            retry_after_s=_RETRY_AFTER_S,
        )
    return InternalError(f"the database failed: {original}")


def _one_line(error: object) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _of_sqlite(error: sqlite3.Error) -> CouncilError:
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageBusyError(
            "the database is locked by another program; try again", retry_after_s=_RETRY_AFTER_S
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return StorageFullError(f"the database cannot be written ({error}); free some space and try again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorageFullError(
            f"the database cannot be written ({error}); see who owns the data folder, or choose another "
            "--data-dir"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return SettingsError(
            f"the database file is damaged or none of ours ({error}); move it away, or restore a backup of it"
        )
    if code == sqlite3.SQLITE_TOOBIG:
        return PayloadTooLargeError("this is too much to keep in one row")
    return InternalError(f"the database failed: {error}")


def _of_postgres(state: str, error: Exception) -> CouncilError:
    if state == "53100":
        return StorageFullError("the database server's disk is full; free some space and try again")
    if state == "25006":
        return StorageFullError("the database server takes no writes; point the master at its primary")
    if state in ("28P01", "28000", "3D000", "42501"):
        return SettingsError(f"the database server refuses us: {error}")
    if state.startswith(_POSTGRES_BUSY):
        return StorageBusyError(
            f"the database server is busy ({state}); try again", retry_after_s=_RETRY_AFTER_S
        )
    return InternalError(f"the database failed: {error}")
