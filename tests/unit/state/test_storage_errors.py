"""What a driver says becomes what a person can act on."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from common.errors import (
    CouncilError,
    InternalError,
    PayloadTooLargeError,
    SettingsError,
    StorageBusyError,
    StorageFullError,
)
from master.state import data_lock, database
from master.state.data_lock import DataLock
from master.state.storage_errors import translate


class ServerSaid(Exception):
    """An error of a PostgreSQL driver: both known ones carry the five characters in `sqlstate`."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"state {sqlstate}")
        self.sqlstate = sqlstate


def wrapped(original: Exception, *, gone: bool = False) -> DBAPIError:
    return DBAPIError("UPDATE …", {}, original, connection_invalidated=gone)


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("53100", StorageFullError),
        ("25006", StorageFullError),
        ("28P01", SettingsError),
        ("3D000", SettingsError),
        ("08006", StorageBusyError),
        ("40P01", StorageBusyError),
        ("53300", StorageBusyError),
        ("55P03", StorageBusyError),
        ("57P03", StorageBusyError),
        ("42P01", InternalError),
    ],
)
def test_a_servers_state_says_whether_to_wait_to_make_room_or_to_look(
    sqlstate: str, kind: type[CouncilError]
) -> None:
    assert type(translate(wrapped(ServerSaid(sqlstate)))) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StorageBusyError),
        (sqlite3.SQLITE_LOCKED, StorageBusyError),
        (sqlite3.SQLITE_FULL, StorageFullError),
        (sqlite3.SQLITE_IOERR_WRITE, StorageFullError),
        (sqlite3.SQLITE_READONLY_DBMOVED, StorageFullError),
        (sqlite3.SQLITE_CANTOPEN, StorageFullError),
        (sqlite3.SQLITE_CORRUPT, SettingsError),
        (sqlite3.SQLITE_NOTADB, SettingsError),
        (sqlite3.SQLITE_TOOBIG, PayloadTooLargeError),
        (sqlite3.SQLITE_ERROR, InternalError),
    ],
)
def test_sqlites_extended_codes_count_as_their_primary_one(code: int, kind: type[CouncilError]) -> None:
    original = sqlite3.OperationalError("in words that may change")
    original.sqlite_errorcode = code
    assert type(translate(wrapped(original))) is kind


def test_a_server_that_is_gone_is_worth_waiting_for() -> None:
    for error in (
        ConnectionRefusedError(111, "refused"),
        wrapped(Exception("closed"), gone=True),
        PoolTimeoutError("none free"),
    ):
        found = translate(error)
        assert type(found) is StorageBusyError
        assert found.retry_after_s
    assert type(translate(wrapped(Exception("odd")))) is InternalError


def test_a_folder_that_cannot_be_made_or_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "data"
    with pytest.raises(StorageFullError, match="file"):
        database.prepare_folder(inside)
    with pytest.raises(StorageFullError, match="file"):
        database.protect_file(inside / "council.db")
    with pytest.raises(StorageFullError, match="file"):
        database.require_space(inside / "council.db")
    with pytest.raises(StorageFullError, match="file"):
        DataLock(inside / "master.lock").acquire()


def test_a_file_system_without_locks_is_not_taken_for_another_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(data_lock, "_lock", no_locks)
    with pytest.raises(SettingsError, match="cannot be locked"):
        DataLock(tmp_path / "master.lock").acquire()


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_lock_that_cannot_name_its_process_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "master.lock"
    path.symlink_to("/dev/full")
    with pytest.raises(StorageFullError, match="cannot write in"):
        DataLock(path).acquire()
    path.unlink()
    lock = DataLock(path)
    lock.acquire()
    assert path.read_text() == str(os.getpid())
    lock.release()
