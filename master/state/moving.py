"""Copy one database into another of the other kind: whole and verified in one transaction, or not at all.

The source is only read. The job engine's own rows stay behind: they are needed by jobs that have not ended,
and while there are such nothing is moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Integer,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from common.errors import ConflictError, InternalError, InvalidRequestError, NotFoundError, SettingsError
from master.state import migrate, store
from master.state.data_lock import DataLock
from master.state.database import database_file, is_sqlite, protect_file, server_options
from master.state.restore import require_no_master
from master.state.storage_errors import translate
from master.state.tables import Base

_BATCH_ROWS = 500
_BATCH_BYTES = 8 * 1024 * 1024
_READ_ROWS = 50
# What belongs to the masters on one server, and not to what they keep.
_NOT_MOVED = ("masters", "cluster_secrets")
_PENDING_JOBS = ("queued", "waiting", "running")
# Every repository's tables are part of the whole; the store knows all of them.
_ALL = (store, Base.metadata)

Progress = Callable[[str, int, int], None]
"""Told of a table, how many of its rows are copied, and how many there are."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was copied: rows and hash of each table, equal at both ends."""

    source: str
    target: str
    tables: Mapping[str, tuple[int, str]]

    def to_json(self) -> dict[str, Any]:
        return {
            "from": self.source,
            "to": self.target,
            "tables": {
                name: {"rows": rows, "sha256": digest} for name, (rows, digest) in self.tables.items()
            },
        }


def move(source: URL, target: URL, data_dir: Path, *, progress: Progress = lambda *_: None) -> Moved:
    """Copy every row of `source` to `target`, and verify it, before anything there can be seen.

    Raises `ConflictError` (a master runs, work is pending, the target has rows), `SettingsError` (tables of
    another version) and storage errors; the target is then as it was.
    """
    if source == target:
        raise InvalidRequestError("source and target are the same database")
    with ExitStack() as stack:
        stack.enter_context(_unused(source, data_dir))
        stack.enter_context(_unused(target, None))
        made = _new_file(target)
        try:
            reader = stack.enter_context(_begun(source, reading=True))
            _require_ready(reader)
            with _begun(target, reading=False) as writer:
                _require_empty(writer, target)
                migrate.upgrade(writer)
                tables = _copy(reader, writer, progress)
                _set_sequences(writer)
        except BaseException:
            if made is not None:
                for end in ("", "-wal", "-shm", "-journal"):
                    made.with_name(f"{made.name}{end}").unlink(missing_ok=True)
            raise
    return Moved(_shown(source), _shown(target), tables)


# -- what has to be so ------------------------------------------------------------------------------------


@contextmanager
def _unused(address: URL, data_dir: Path | None) -> Iterator[None]:
    """No master on this database, and none of this machine's may start meanwhile."""
    if not is_sqlite(address):
        require_no_master(address)
    file = database_file(address)
    with ExitStack() as held:
        paths = [data_dir / "master.lock"] if data_dir is not None and data_dir.is_dir() else []
        if file is not None and (data_dir is None or file.resolve().parent != data_dir.resolve()):
            # A master whose data folder this is holds the one, a master from elsewhere the other.
            paths += [path for path in (file.with_name("master.lock"), file.with_name(f"{file.name}.lock"))]
        for path in paths:
            if path.parent.is_dir():
                lock = DataLock(path)
                lock.acquire()
                held.callback(lock.release)
        yield


def _require_ready(reader: Connection) -> None:
    revision = migrate.current_revision(reader)
    if revision is None:
        raise NotFoundError("the source has no council's tables; nothing to move")
    if revision != migrate.head_revision():
        raise SettingsError(
            f"the source has tables of revision {revision}, this one {migrate.head_revision()}; start the "
            "newest master once, which brings them up to date, and stop it"
        )
    running = reader.execute(text("SELECT count(*) FROM sessions WHERE NOT over")).scalar_one()
    if running:
        raise ConflictError(
            f"{running} session(s) have not ended; start the master, let them end or cancel them, and stop it"
        )
    jobs = Base.metadata.tables.get("jobs")
    if jobs is not None:
        pending = reader.execute(
            select(func.count()).select_from(jobs).where(jobs.c.state.in_(_PENDING_JOBS))
        ).scalar_one()
        if pending:
            raise ConflictError(
                f"{pending} job(s) have not ended; start the master, let them end or cancel them "
                "(`council jobs list`), and stop it"
            )


def _require_empty(writer: Connection, target: URL) -> None:
    names = set(inspect(writer).get_table_names())
    strangers = sorted(names - set(Base.metadata.tables) - {"alembic_version"})
    if strangers:
        raise ConflictError(
            f"{_shown(target)} has tables that are none of ours ({', '.join(strangers[:5])}); make an empty "
            "database"
        )
    revision = migrate.current_revision(writer)
    if names - {"alembic_version"} and revision != migrate.head_revision():
        raise ConflictError(f"{_shown(target)} has tables of another version; make an empty database")
    for table in _tables():
        rows = (
            writer.execute(select(func.count()).select_from(table)).scalar_one() if table.name in names else 0
        )
        if rows > _made_by_migrations(table):
            raise ConflictError(f"{_shown(target)} has {rows} rows in {table.name}; make an empty database")


def _tables() -> list[Table]:
    """What is moved, a table after those that it refers to."""
    return [table for table in Base.metadata.sorted_tables if table.name not in _NOT_MOVED]


def _made_by_migrations(table: Table) -> int:
    """How many rows a fresh table may have: one, where a counted id tells that one row is all there is."""
    keys = list(table.primary_key.columns)
    return int(len(keys) == 1 and isinstance(keys[0].type, Integer) and table.name in ("pulse", "job_queue"))


# -- the copy ---------------------------------------------------------------------------------------------


def _copy(reader: Connection, writer: Connection, progress: Progress) -> dict[str, tuple[int, str]]:
    told = {}
    for table in reversed(_tables()):
        writer.execute(delete(table))
    for table in _tables():
        rows = reader.execute(select(func.count()).select_from(table)).scalar_one()
        progress(table.name, 0, rows)
        read = _Digest()
        copied = 0
        for batch in _batches(reader, table, read):
            writer.execute(insert(table), batch)
            copied += len(batch)
            progress(table.name, copied, rows)
        written = _Digest()
        for row in _rows(writer, table):
            written.add(row)
        if (read.rows, read.hex) != (written.rows, written.hex) or read.rows != rows:
            raise InternalError(
                f"{table.name} arrived differently ({read.rows} rows sent, {written.rows} there); nothing "
                "was kept"
            )
        told[table.name] = (rows, read.hex)
    return told


def _batches(reader: Connection, table: Table, read: _Digest) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in _rows(reader, table):
        size += read.add(row)
        batch.append(row)
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rows(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    found = connection.execute(
        select(table), execution_options={"stream_results": True, "yield_per": _READ_ROWS}
    )
    for row in found.mappings():
        yield dict(row)


class _Digest:
    """A hash of rows in any order: two databases do not sort text alike."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, row: Mapping[str, Any]) -> int:
        """Count a row in; its size in bytes."""
        told = json.dumps(row, sort_keys=True, default=_plain).encode()
        self.rows += 1
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(told).digest())) % (1 << 256)
        return len(told)

    @property
    def hex(self) -> str:
        return f"{self._sum:064x}"


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    raise TypeError(f"a {type(value).__name__} in a row")


def _set_sequences(writer: Connection) -> None:
    """The next number that a server gives is one more than the largest that came along."""
    if writer.dialect.name != "postgresql":
        return
    for table in _tables():
        for column in table.primary_key.columns:
            if isinstance(column.type, Integer):
                writer.execute(
                    text(
                        f"SELECT setval(s, (SELECT coalesce(max({column.name}), 0) + 1 FROM {table.name}), "
                        "false) FROM pg_get_serial_sequence(:table, :column) AS s WHERE s IS NOT NULL"
                    ),
                    {"table": table.name, "column": column.name},
                )


# -- connections ------------------------------------------------------------------------------------------


@contextmanager
def _begun(address: URL, *, reading: bool) -> Iterator[Connection]:
    """One transaction, committed at the end."""
    engine = _engine(address, reading=reading)
    try:
        with engine.begin() as connection:
            yield connection
    except (SQLAlchemyError, OSError) as error:
        raise translate(error) from error
    finally:
        engine.dispose()


def _engine(address: URL, *, reading: bool) -> Engine:
    if not is_sqlite(address):
        options = server_options(address) | {"options": "-c statement_timeout=0"}
        level = "REPEATABLE READ" if reading else "READ COMMITTED"
        return create_engine(address, connect_args=options, poolclass=NullPool, isolation_level=level)
    engine = create_engine(address.set(drivername="sqlite"), poolclass=NullPool)

    def set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # sqlite3 must not open and end transactions by itself
        connection.execute("PRAGMA foreign_keys=ON")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
    return engine


def _new_file(target: URL) -> Path | None:
    """The file that is made for the copy, and taken away where that fails."""
    file = database_file(target)
    if file is None or file.exists():
        return None
    protect_file(file)
    return file


def _shown(address: URL) -> str:
    return address.set(drivername=address.get_backend_name()).render_as_string(hide_password=True)
