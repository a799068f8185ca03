"""A backup while the master runs: both database files as of one moment, and what else the data folder keeps.

Writers are held for an instant only: once both snapshots are open, everybody may write again and the copy is
made from the snapshots.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import URL

from common import __version__
from common.errors import NotFoundError, NotSupportedError, StorageBusyError
from master.state import archive_file
from master.state.archive_file import Manifest
from master.state.checkup import check, counts_of, jobs_file, reading, revision_of
from master.state.database import database_file, is_sqlite
from master.state.storage_errors import translate

ASIDE = "before-restore-"
DUMP = "council.pgdump"
NAME = "council-backup-"
_HOLD_S = 10.0
_DUMP_TIMEOUT_S = 3600.0
# Fetched again, of this process alone, or part of a database file that is copied by itself.
_LEFT_OUT_FOLDERS = ("models", "executors")
_LEFT_OUT_ENDS = (".lock", ".log", ".part", "-wal", "-shm", "-journal")
_LEFT_OUT_FILES = ("master.json", "master.id")


def backup(address: URL, data_dir: Path, target: Path | None = None) -> tuple[Path, Manifest]:
    """Write one archive: the database, the jobs' own, the certificate authority, the rest of the folder.

    `target`: a file, or a folder that gets a file named by the time; the working folder when unset. The file
    holds every conversation and every key: mode 0600. Raises `NotFoundError`, `NotSupportedError` (no pg_dump
    here; it says what to type) and storage errors.
    """
    now = datetime.now(UTC)
    file = _target(target, now)
    with tempfile.TemporaryDirectory(prefix=".council-backup-", dir=file.parent) as scratch:
        folder = Path(scratch)
        if is_sqlite(address):
            manifest, files = _files(address, data_dir, folder, now)
        else:
            manifest, files = _dump(address, folder, now)
        for name, path in kept_files(data_dir):
            if name not in files and path.resolve() != file.resolve():
                files[name] = path
        return file, archive_file.write(file, manifest, files)


def kept_files(data_dir: Path) -> Iterator[tuple[str, Path]]:
    """What the data folder keeps beside databases, as (path in it, file)."""
    if not data_dir.is_dir():
        return
    for path in sorted(data_dir.rglob("*")):
        inside = path.relative_to(data_dir)
        top = inside.parts[0]
        if top in _LEFT_OUT_FOLDERS or top.startswith((ASIDE, ".", NAME)):
            continue
        if path.is_symlink() or not path.is_file() or path.name.endswith(_LEFT_OUT_ENDS):
            continue
        if inside.as_posix() not in _LEFT_OUT_FILES and path.suffix not in (".db", ".pgdump"):
            yield inside.as_posix(), path


def dump_command(address: URL, file: Path | str) -> list[str]:
    """How PostgreSQL's own program writes the whole database to a file; it asks for the password itself."""
    return ["pg_dump", "--format=custom", f"--file={file}", for_libpq(address)]


def for_libpq(address: URL) -> str:
    """The address without its password, as PostgreSQL's programs take it."""
    # `set` would leave a password that is to be none.
    return address._replace(drivername="postgresql", password=None).render_as_string(hide_password=False)


def server_environment(address: URL) -> dict[str, str]:
    """The password, where other users of this machine do not see it."""
    import os

    return {**os.environ, **({"PGPASSWORD": str(address.password)} if address.password else {})}


def _target(target: Path | None, now: datetime) -> Path:
    name = f"{NAME}{now:%Y%m%d-%H%M%S}.tar.gz"
    chosen = target if target is not None else Path.cwd()
    if chosen.is_dir():
        return chosen / name
    if not chosen.parent.is_dir():
        raise NotFoundError(f"there is no folder {chosen.parent}")
    return chosen


def _files(address: URL, data_dir: Path, folder: Path, now: datetime) -> tuple[Manifest, dict[str, Path]]:
    ours = database_file(address)
    if ours is None or not ours.is_file():
        raise NotFoundError(f"there is no database at {ours}; nothing to back up")
    named = {"council.db": ours, "council-jobs.db": jobs_file(ours)}
    own = {path.resolve() for path in named.values()}
    others = {path.name: path for path in sorted(data_dir.glob("*.db")) if path.resolve() not in own}
    files = {name: path for name, path in {**others, **named}.items() if path.is_file()}
    copies = {name: folder / name for name in files}
    _copy_together([(path, copies[name]) for name, path in files.items()])
    with reading(copies["council.db"]) as copy:
        told = Manifest(now.isoformat(), __version__, "sqlite", revision_of(copy), counts_of(copy))
    return told, copies


def _copy_together(pairs: list[tuple[Path, Path]]) -> None:
    """Copy databases as of one moment at which none of them was being written."""
    try:
        with ExitStack() as snapshots:
            sources = []
            with ExitStack() as writers:
                for source, _ in pairs:
                    writer = writers.enter_context(closing(_connect(source)))
                    writer.execute("BEGIN IMMEDIATE")
                for source, _ in pairs:
                    reader = snapshots.enter_context(closing(_connect(source)))
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the snapshot
                    sources.append(reader)
            for reader, (_, target) in zip(sources, pairs, strict=True):
                with closing(sqlite3.connect(target, isolation_level=None)) as copy:
                    reader.backup(copy)
                    copy.execute("PRAGMA journal_mode=DELETE")  # one file, without companions
    except sqlite3.Error as error:
        raise translate(error) from error


def _connect(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=_HOLD_S, isolation_level=None)


def _dump(address: URL, folder: Path, now: datetime) -> tuple[Manifest, dict[str, Path]]:
    found = check(address)
    file = folder / DUMP
    run_tool(dump_command(address, file), address, f"pg_dump of {found.place}")
    return Manifest(now.isoformat(), __version__, "postgresql", found.revision, found.counts), {DUMP: file}


def run_tool(command: list[str], address: URL, what: str) -> None:
    """Run one of PostgreSQL's programs. Raises `NotSupportedError` where it is missing."""
    program = shutil.which(command[0])
    if program is None:
        raise NotSupportedError(
            f"{command[0]} is not on the PATH here: install PostgreSQL's client programs (apt-get install "
            f"postgresql-client), or type this where they are: {_shown(command)}"
        )
    done = subprocess.run(
        [program, *command[1:]],
        env=server_environment(address),
        timeout=_DUMP_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise StorageBusyError(f"{what} failed: {done.stderr.decode(errors='replace').strip()[-1000:]}")


def _shown(command: list[str]) -> str:
    """The command as a person types it: our temporary folder is nobody else's."""
    parts = [f"--file={DUMP}" if part.startswith("--file=") else part for part in command]
    return " ".join(DUMP if Path(part).name == DUMP and "=" not in part else part for part in parts)
