"""Put a backup back: checked whole before anything is touched, the old state kept aside."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from common.errors import ConflictError, InvalidRequestError, NotFoundError
from master.state import archive_file
from master.state.archive_file import Manifest
from master.state.backup import ASIDE, DUMP, dump_command, for_libpq, kept_files, run_tool
from master.state.checkup import check, check_file, jobs_file
from master.state.data_lock import DataLock
from master.state.database import APPLICATION, database_file, is_sqlite, prepare_folder, server_options
from master.state.migrate import knows_revision
from master.state.storage_errors import translate

_OURS = "council.db"
_JOBS = "council-jobs.db"
_COMPANIONS = ("-wal", "-shm", "-journal")
_LEAVING_S = 2.0  # a server shows a connection for a moment longer than its master lives


@dataclass(frozen=True, slots=True)
class Restored:
    """What is in place now; `aside` is the folder with what was there before."""

    manifest: Manifest | None
    aside: Path | None


def restore(source: Path, address: URL, data_dir: Path, *, force: bool = False) -> Restored:
    """Put an archive of `backup` back. With `force` over a council that is there: that one is kept aside.

    Raises `InvalidRequestError` (no backup, damaged, of another kind of database), `SettingsError` (a master
    runs on the folder), `ConflictError` (a council is there) and storage errors; then nothing has changed.
    """
    if not source.is_file():
        raise NotFoundError(f"there is no file {source}")
    with _held(data_dir), tempfile.TemporaryDirectory(prefix=".restoring-", dir=data_dir) as scratch:
        fresh = Path(scratch)
        manifest = archive_file.extract(source, fresh)
        _accept(manifest, fresh, address)
        if is_sqlite(address):
            aside = _exchange(fresh, address, data_dir, force=force)
        else:
            aside = _load(fresh, address, data_dir, force=force)
        return Restored(manifest, aside)


def undo(address: URL, data_dir: Path) -> Restored:
    """Put back what the last restore kept aside; what is there now is kept aside in turn."""
    with _held(data_dir):
        found = sorted(data_dir.glob(f"{ASIDE}*"))
        if not found:
            raise NotFoundError(f"no restore has kept anything aside in {data_dir}")
        if is_sqlite(address):
            aside = _exchange(found[-1], address, data_dir, force=True)
        else:
            aside = _load(found[-1], address, data_dir, force=True)
        shutil.rmtree(found[-1], ignore_errors=True)
        return Restored(None, aside)


@contextmanager
def _held(data_dir: Path) -> Iterator[None]:
    """The folder, with no master on it."""
    prepare_folder(data_dir)
    lock = DataLock(data_dir / "master.lock")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _accept(manifest: Manifest, fresh: Path, address: URL) -> None:
    wanted = "sqlite" if is_sqlite(address) else "postgresql"
    if manifest.database != wanted:
        raise InvalidRequestError(
            f"this is a backup of {manifest.database} and the master uses {wanted}; restore it without "
            "COUNCIL_DATABASE_URL or with another, then `council db migrate --to URL`"
        )
    if manifest.revision is not None and not knows_revision(manifest.revision):
        raise InvalidRequestError(
            f"the backup was made by a newer lan-council ({manifest.version}); upgrade this one"
        )
    if wanted == "postgresql":
        return
    found = check_file(fresh / _OURS)
    damage = [one for one in found.problems if found.revision is None or "revision" not in one]
    if damage:
        raise InvalidRequestError(f"the backup is damaged: {damage[0]}")
    if found.counts != dict(manifest.counts):
        raise InvalidRequestError("the backup does not hold the rows that its manifest counts")


# -- files ------------------------------------------------------------------------------------------------


def _exchange(fresh: Path, address: URL, data_dir: Path, *, force: bool) -> Path | None:
    """Move what is there aside and what is fresh into place; back again where that fails."""
    ours = database_file(address)
    if ours is None:
        raise InvalidRequestError("a database in memory cannot be restored")
    with ExitStack() as elsewhere:
        if ours.resolve().parent != data_dir.resolve():
            lock = DataLock(ours.with_name(f"{ours.name}.lock"))
            lock.acquire()
            elsewhere.callback(lock.release)
        places = {_OURS: ours, _JOBS: jobs_file(ours)}
        old = {
            f"{name}{end}": path.with_name(f"{path.name}{end}")
            for name, path in places.items()
            for end in ("", *_COMPANIONS)
            if path.with_name(f"{path.name}{end}").is_file()
        }
        if old and not force:
            raise ConflictError(
                f"there is a council in {ours.parent} already; --force puts the backup in its place and "
                "keeps that one aside"
            )
        old |= dict(kept_files(data_dir)) if force else {}
        new = {
            path.relative_to(fresh).as_posix(): path for path in sorted(fresh.rglob("*")) if path.is_file()
        }
        clash = sorted(set(new) & {name for name, _ in kept_files(data_dir)}) if not force else []
        if clash:
            raise ConflictError(f"{data_dir} has its own {', '.join(clash)}; --force keeps it aside")
        aside = _aside(data_dir) if old else None
        moved: list[tuple[Path, Path]] = []
        try:
            for name, path in old.items():
                assert aside is not None  # made because there is something to keep
                _move(path, aside / name, moved)
            for name, path in new.items():
                base = next((one for one in (_JOBS, _OURS) if name.startswith(one)), None)
                place = (
                    places[base].with_name(f"{places[base].name}{name[len(base) :]}")
                    if base
                    else data_dir / name
                )
                _move(path, place, moved)
        except BaseException:
            for was, is_now in reversed(moved):
                shutil.move(is_now, was)
            raise
        return aside


def _move(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.move(source, target)
    moved.append((source, target))


def _aside(data_dir: Path) -> Path:
    folder = data_dir / f"{ASIDE}{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    folder.mkdir(mode=0o700)
    return folder


# -- a server ---------------------------------------------------------------------------------------------


def _load(fresh: Path, address: URL, data_dir: Path, *, force: bool) -> Path | None:
    dump = fresh / DUMP
    if not dump.is_file():
        raise InvalidRequestError(f"{fresh} has no {DUMP}")
    require_no_master(address)
    counts = check(address).counts
    # A master that only started has a row that its health check writes.
    rows = sum(count for table, count in counts.items() if table != "pulse")
    if rows and not force:
        raise ConflictError(
            f"the database has {rows} rows; --force puts the backup in their place and keeps them in a dump"
        )
    aside = _aside(data_dir) if rows else None
    if aside is not None:
        run_tool(dump_command(address, aside / DUMP), address, "pg_dump of what is there")
        for name, path in kept_files(data_dir):
            _move(path, aside / name, [])
    options = ["--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error"]
    run_tool(["pg_restore", *options, f"--dbname={for_libpq(address)}", str(dump)], address, "pg_restore")
    for path in sorted(fresh.rglob("*")):
        if path.is_file() and path != dump:
            _move(path, data_dir / path.relative_to(fresh), [])
    return aside


def require_no_master(address: URL) -> None:
    """Raise `ConflictError` while a master is connected to a server's database."""
    engine = create_engine(address, connect_args=server_options(address))
    give_up = time.monotonic() + _LEAVING_S
    try:
        # Each look in a transaction of its own: the server shows the same connections all through one.
        while others := _connected_masters(engine):
            if time.monotonic() > give_up:
                break
            time.sleep(0.05)
    except (SQLAlchemyError, OSError) as error:
        raise translate(error) from error
    finally:
        engine.dispose()
    if others:
        raise ConflictError("a master is connected to this database; stop every master on it first")


def _connected_masters(engine: Engine) -> int:
    with engine.connect() as connection:
        found: int = connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = :name AND pid <> pg_backend_pid()"
            ),
            {"name": APPLICATION},
        ).scalar_one()
        return found
