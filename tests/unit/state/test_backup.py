"""A backup is whole, is of one moment, and comes back; what a restore replaces can be had back."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from common.errors import ConflictError, CouncilError, InvalidRequestError, NotSupportedError, SettingsError
from master.state import restore as putting_back
from master.state.backup import backup
from master.state.checkup import check, check_file
from master.state.database import parse_address
from master.state.store import Store
from tests.unit.state.builders import done, plan
from tests.unit.state.conftest import address_in


def url_of(folder: Path) -> URL:
    return parse_address(address_in(folder))


async def council_in(folder: Path, sessions: int = 3) -> list[str]:
    """A data folder with some sessions, a file of the jobs, an authority, and what no backup needs."""
    store = await Store.open(address_in(folder), data_dir=folder)
    asked = [plan(f"Question {number}?") for number in range(sessions)]
    for one in asked:
        await store.sessions.create(one)
        await store.sessions.finish_attempt(one.session_id, done())
    await store.close()
    with closing(sqlite3.connect(folder / "council-jobs.db")) as jobs:
        jobs.execute("PRAGMA journal_mode=WAL")
        jobs.execute("CREATE TABLE IF NOT EXISTS steps (number INTEGER)")
        jobs.commit()
    (folder / "authority.json").write_text('{"key": "private"}')
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "big.gguf").write_bytes(b"weights")
    (folder / "master.json").write_text("{}")
    return sorted(one.session_id for one in asked)


async def sessions_in(folder: Path) -> list[str]:
    store = await Store.open(address_in(folder), data_dir=folder)
    try:
        return sorted(await store.sessions.unfinished())
    finally:
        await store.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "master.lock"
    }


async def test_a_backup_comes_back_whole_in_an_empty_folder(tmp_path: Path) -> None:
    asked = await council_in(tmp_path / "old")
    file, manifest = backup(url_of(tmp_path / "old"), tmp_path / "old", tmp_path)
    assert (manifest.counts["sessions"], manifest.counts["attempts"]) == (3, 3)
    assert set(manifest.files) == {"council.db", "council-jobs.db", "authority.json"}
    done_ = putting_back.restore(file, url_of(tmp_path / "new"), tmp_path / "new")
    assert done_.aside is None
    assert await sessions_in(tmp_path / "new") == asked
    assert (tmp_path / "new" / "authority.json").read_text() == '{"key": "private"}'
    assert check_file(tmp_path / "new" / "council.db").problems == []
    if sys.platform != "win32":
        private = (file, *(tmp_path / "new" / name for name in manifest.files))
        assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


async def test_a_backup_beside_writers_is_of_one_moment_in_both_files(tmp_path: Path) -> None:
    await council_in(tmp_path)
    ours, jobs = tmp_path / "council.db", tmp_path / "council-jobs.db"
    with closing(sqlite3.connect(ours)) as one:
        one.execute("CREATE TABLE steps (number INTEGER)")
    stop = threading.Event()
    written = threading.Event()

    def write() -> None:
        """The same numbers into both files, into ours first."""
        with closing(sqlite3.connect(ours, timeout=30)) as a, closing(sqlite3.connect(jobs, timeout=30)) as b:
            number = 0
            while not stop.is_set():
                number += 1
                for connection in (a, b):
                    connection.execute("INSERT INTO steps VALUES (?)", (number,))
                    connection.commit()
                if number == 20:
                    written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(20)
        for number in range(5):
            file, _ = backup(url_of(tmp_path), tmp_path, tmp_path / f"{number}.tar.gz")
            copy = tmp_path.parent / f"{tmp_path.name}-{number}"
            putting_back.restore(file, url_of(copy), copy)
            steps = []
            for name in ("council.db", "council-jobs.db"):
                with closing(sqlite3.connect(copy / name)) as connection:
                    steps.append(connection.execute("SELECT max(number) FROM steps").fetchone()[0])
            assert steps[0] - steps[1] in (0, 1)
            assert steps[1] >= 19
    finally:
        stop.set()
        writer.join()


async def test_a_backup_goes_on_beside_a_running_master(tmp_path: Path) -> None:
    store = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    asked = plan()
    await store.sessions.create(asked)
    writing = asyncio.create_task(_attempts(store, asked.session_id))
    file, _ = await asyncio.to_thread(backup, url_of(tmp_path), tmp_path, tmp_path / "b.tar.gz")
    await writing
    with pytest.raises(SettingsError, match=f"process {os.getpid()}"):
        putting_back.restore(file, url_of(tmp_path), tmp_path, force=True)
    assert len((await store.sessions.load(asked.session_id)).records) == 50
    await store.close()


async def _attempts(store: Store, session_id: str) -> None:
    for number in range(1, 51):
        await store.sessions.finish_attempt(session_id, done(attempt=number))


async def test_a_council_that_is_there_is_kept_aside_and_comes_back(tmp_path: Path) -> None:
    old = await council_in(tmp_path / "here", 2)
    other = await council_in(tmp_path / "there", 4)
    file, _ = backup(url_of(tmp_path / "there"), tmp_path / "there", tmp_path)
    here, folder = url_of(tmp_path / "here"), tmp_path / "here"
    before = contents(folder)
    with pytest.raises(ConflictError, match="--force"):
        putting_back.restore(file, here, folder)
    assert contents(folder) == before
    (folder / "authority.json").write_text('{"key": "mine"}')
    restored = putting_back.restore(file, here, folder, force=True)
    assert restored.aside is not None
    assert await sessions_in(folder) == other
    assert (folder / "models" / "big.gguf").exists()
    putting_back.undo(here, folder)
    assert await sessions_in(folder) == old
    assert (folder / "authority.json").read_text() == '{"key": "mine"}'
    putting_back.undo(here, folder)  # an undo can be undone
    assert await sessions_in(folder) == other


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def _flip(file: Path) -> None:
    with tarfile.open(file) as archive:
        found = {one.name: archive.extractfile(one) for one in archive}
        parts = {name: content.read() for name, content in found.items() if content}
    parts["authority.json"] = parts["authority.json"].replace(b"private", b"changed")
    _pack(file, parts)


def _lead_out(file: Path) -> None:
    manifest = {"format": 1, "created_at": "", "version": "", "database": "sqlite", "revision": None}
    files = {"../outside": {"bytes": 1, "sha256": ""}}
    _pack(
        file,
        {
            "manifest.json": json.dumps({**manifest, "counts": {}, "files": files}).encode(),
            "../outside": b"x",
        },
    )


def _pack(file: Path, parts: dict[str, bytes]) -> None:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _prose(file: Path) -> None:
    file.write_text("Dear diary")


@pytest.mark.parametrize("spoil", [_cut, _flip, _lead_out, _prose])
async def test_a_damaged_or_foreign_archive_is_refused_and_touches_nothing(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    await council_in(tmp_path / "here")
    file, _ = backup(url_of(tmp_path / "here"), tmp_path / "here", tmp_path)
    spoil(file)
    before = contents(tmp_path / "here")
    with pytest.raises(InvalidRequestError):
        putting_back.restore(file, url_of(tmp_path / "here"), tmp_path / "here", force=True)
    assert contents(tmp_path / "here") == before
    assert not (tmp_path / "outside").exists()


async def test_a_backup_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    await council_in(tmp_path / "here")
    with closing(sqlite3.connect(tmp_path / "here" / "council.db")) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    file, _ = backup(url_of(tmp_path / "here"), tmp_path / "here", tmp_path)
    with pytest.raises(InvalidRequestError, match="newer lan-council"):
        putting_back.restore(file, url_of(tmp_path / "there"), tmp_path / "there")


@pytest.mark.parametrize(
    ("revision", "ok", "told"), [("0001", True, "older version"), ("9999", False, "newer version")], ids=str
)
async def test_a_check_says_of_which_version_the_tables_are(
    tmp_path: Path, revision: str, ok: bool, told: str
) -> None:
    await council_in(tmp_path)
    with closing(sqlite3.connect(tmp_path / "council.db")) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    found = check(url_of(tmp_path))
    assert found.to_json()["ok"] is ok
    assert told in (found.notes if ok else found.problems)[0]


async def test_a_check_finds_broken_references_and_damage(tmp_path: Path) -> None:
    await council_in(tmp_path, 40)
    assert check(url_of(tmp_path)).to_json()["ok"]
    with closing(sqlite3.connect(tmp_path / "council.db")) as raw, raw:
        raw.execute("PRAGMA foreign_keys=OFF")
        raw.execute("DELETE FROM sessions WHERE rowid = 1")
    problems = check(url_of(tmp_path)).problems
    assert len(problems) == 1
    assert "attempts: row" in problems[0]
    with (tmp_path / "council.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for page in range(4096 * 4, size, 4096 * 3):
            file.seek(page)
            file.write(b"\xff" * 512)
    assert any(one.startswith("integrity") for one in check(url_of(tmp_path)).problems)


async def test_a_server_is_dumped_and_comes_back(postgres_url: str, tmp_path: Path) -> None:
    if shutil.which("pg_dump") is None:
        pytest.skip("PostgreSQL's client programs are not on the PATH: apt-get install postgresql-client")
    address = parse_address(postgres_url)
    store = await Store.open(postgres_url, data_dir=tmp_path)
    first, second = plan(), plan()
    await store.sessions.create(first)
    file, manifest = await asyncio.to_thread(backup, address, tmp_path, tmp_path / "b.tar.gz")
    assert manifest.counts["sessions"] == 1
    await store.sessions.create(second)
    await store.close()
    with pytest.raises(ConflictError, match="--force"):
        putting_back.restore(file, address, tmp_path)
    putting_back.restore(file, address, tmp_path, force=True)
    assert check(address).counts["sessions"] == 1
    putting_back.undo(address, tmp_path)
    assert check(address).counts["sessions"] == 2
    with pytest.raises(InvalidRequestError, match="db migrate"):
        putting_back.restore(file, url_of(tmp_path / "sqlite"), tmp_path / "sqlite")


async def test_a_restore_is_refused_while_a_master_is_connected(postgres_url: str, tmp_path: Path) -> None:
    store = await Store.open(postgres_url, data_dir=tmp_path / "one")
    with pytest.raises(ConflictError, match="stop every master"):
        putting_back.require_no_master(parse_address(postgres_url))
    await store.close()
    putting_back.require_no_master(parse_address(postgres_url))


async def test_without_pg_dump_the_command_to_type_is_said(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    secret = parse_address(postgres_url).set(password="geheim")
    with pytest.raises(
        NotSupportedError, match=r"pg_dump --format=custom --file=council.pgdump postgres"
    ) as told:
        backup(secret, tmp_path, tmp_path)
    assert isinstance(told.value, CouncilError)
    assert "geheim" not in told.value.detail
    assert not [name for name in os.listdir(tmp_path) if "tar" in name]
