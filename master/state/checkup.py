"""Is a database whole: integrity, references, revision, and how many rows each table has. Only reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import pathname2url

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from common.errors import NotFoundError
from master.state.database import database_file, is_sqlite, server_options
from master.state.migrate import current_revision, head_revision
from master.state.storage_errors import translate

_BUSY_TIMEOUT_S = 5.0
_MOST_TOLD = 20
JOBS_SUFFIX = "-jobs"


@dataclass(slots=True)
class Checkup:
    """What was found. `problems` is empty when everything is well; `counts` are rows by table.

    `notes` are worth knowing and nothing to repair.
    """

    database: str
    place: str
    revision: str | None = None
    head: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "database": self.database,
            "place": self.place,
            "revision": self.revision,
            "head": self.head,
            "counts": self.counts,
            "problems": self.problems,
            "notes": self.notes,
        }


def check(address: URL) -> Checkup:
    """Look at a database, beside a master that runs too. Raises `NotFoundError` and storage errors."""
    if not is_sqlite(address):
        return _check_server(address)
    file = database_file(address)
    if file is None:
        raise NotFoundError("a database in memory cannot be checked")
    return check_file(file)


def check_file(file: Path) -> Checkup:
    """Look at `council.db` and at the file of the jobs beside it."""
    if not file.is_file():
        raise NotFoundError(f"there is no database at {file}; `council up` makes one")
    found = Checkup("sqlite", str(file), head=head_revision())
    with reading(file) as connection:
        found.problems += _damage(connection)
        if not found.problems:
            found.problems += _broken_references(connection)
            found.counts = counts_of(connection)
            found.revision = revision_of(connection)
            _judge_revision(found)
    jobs = jobs_file(file)
    if jobs.is_file():
        with reading(jobs) as connection:
            found.problems += [f"{jobs.name}: {one}" for one in _damage(connection)]
    return found


def jobs_file(file: Path) -> Path:
    """The job engine's own file beside ours."""
    return file.with_name(f"{file.stem}{JOBS_SUFFIX}{file.suffix}")


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write. Raises storage errors."""
    address = f"file:{pathname2url(str(file.resolve()))}?mode=ro"
    try:
        with closing(
            sqlite3.connect(address, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        ) as one:
            yield one
    except sqlite3.Error as error:
        raise translate(error) from error


def counts_of(connection: sqlite3.Connection) -> dict[str, int]:
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall()
    return {
        name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
        for (name,) in names
        if name != "alembic_version"
    }


def revision_of(connection: sqlite3.Connection) -> str | None:
    try:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:  # no such table: none of ours, or not finished
        return None
    return str(found[0]) if found else None


def _damage(connection: sqlite3.Connection) -> list[str]:
    try:
        told = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_MOST_TOLD})")]
    except sqlite3.DatabaseError as error:
        return [f"integrity: {error}"]
    return [f"integrity: {one}" for one in told if one != "ok"]


def _broken_references(connection: sqlite3.Connection) -> list[str]:
    broken = connection.execute("PRAGMA foreign_key_check").fetchmany(_MOST_TOLD)
    return [
        f"{table}: row {row} refers to a row of {parent} that is gone" for table, row, parent, _ in broken
    ]


def _check_server(address: URL) -> Checkup:
    found = Checkup("postgresql", address.render_as_string(hide_password=True), head=head_revision())
    engine = create_engine(address, connect_args=server_options(address))
    try:
        with engine.connect() as connection:
            found.revision = current_revision(connection)
            found.counts = _counts_on_server(connection)
            found.problems += [
                f"{row.conrelid}: the constraint {row.conname} was never validated"
                for row in connection.execute(
                    text(
                        "SELECT conrelid::regclass::text AS conrelid, conname FROM pg_constraint "
                        "WHERE NOT convalidated"
                    )
                )
            ]
            _judge_revision(found)
    except (SQLAlchemyError, OSError) as error:
        raise translate(error) from error
    finally:
        engine.dispose()
    return found


def _counts_on_server(connection: Connection) -> dict[str, int]:
    names = sorted(set(inspect(connection).get_table_names()) - {"alembic_version"})
    return {name: connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one() for name in names}


def _judge_revision(found: Checkup) -> None:
    if found.revision is None:
        found.problems.append("its tables are not a council's; `council up` makes them")
    elif found.head is not None and found.revision < found.head:  # numbers of four digits
        found.notes.append(
            f"its tables are of an older version (revision {found.revision}, this program's is "
            f"{found.head}); the next start of the master brings them up to date"
        )
    elif found.revision != found.head:
        found.problems.append(
            f"it was made by a newer version of lan-council (revision {found.revision}, this program's is "
            f"{found.head}); upgrade this one"
        )
