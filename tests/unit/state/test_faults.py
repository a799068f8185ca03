"""Killed masters, second masters, and disks that take no more: nothing is lost, nothing half-written."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import SettingsError, StorageBusyError, StorageFullError
from master.council.plan import Outcome
from master.state import database
from master.state.store import Store
from tests.unit.state.builders import done, plan, running
from tests.unit.state.conftest import address_in
from tests.unit.state.processes import child

posix = pytest.mark.skipif(sys.platform == "win32", reason="file modes and limits are POSIX's")


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that another user may read; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_what_was_committed_survives_kill_9(address: str, tmp_path: Path) -> None:
    async with child("commit", tmp_path, address) as writer:
        session_id = await writer.line()
        while (line := await writer.line()) != "done 40":
            assert line
        await writer.kill()
        told = [line, *await writer.lines()]
    last_done = max(int(one.split()[1]) for one in told if one.startswith("done"))
    last_begun = max([last_done, *(int(one.split()[1]) for one in told if one.startswith("begun"))])

    store = await Store.open(address, data_dir=tmp_path)
    records = (await store.sessions.load(session_id)).records
    assert await store.sessions.unfinished() == [session_id]
    await store.close()

    finished = {one.attempt: one for one in records if one.outcome is Outcome.DONE}
    assert set(finished) >= set(range(1, last_done + 1))
    assert all(one.text == f"{number} " * 500 for number, one in finished.items())
    assert {one.attempt for one in records} >= set(range(1, last_begun + 1))


async def test_a_second_master_is_told_who_has_the_folder_and_the_first_goes_on(tmp_path: Path) -> None:
    async with child("hold", tmp_path) as first:
        _, pid = (await first.line()).split()
        before = names_in(tmp_path)
        with pytest.raises(SettingsError, match=rf"process {pid}\b.*--data-dir"):
            await Store.open(address_in(tmp_path), data_dir=tmp_path)
        assert names_in(tmp_path) == before
        assert await first.end() == 0


async def test_a_killed_master_gives_its_folder_back(tmp_path: Path) -> None:
    async with child("hold", tmp_path) as first:
        assert (await first.line()).startswith("open")
        await first.kill()
    store = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    assert (tmp_path / "master.lock").read_text() == str(os.getpid())
    await store.close()


async def test_a_folder_that_failed_to_open_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "council.db").write_bytes(b"this is no database, whatever its name says" * 50)
    for _ in range(2):
        with pytest.raises(SettingsError, match="damaged or none of ours"):
            await Store.open(address_in(tmp_path), data_dir=tmp_path)


async def test_two_folders_cannot_share_one_database(tmp_path: Path) -> None:
    address = address_in(tmp_path / "shared")
    first = await Store.open(address, data_dir=tmp_path / "one")
    with pytest.raises(SettingsError, match=f"process {os.getpid()}"):
        await Store.open(address, data_dir=tmp_path / "two")
    await first.close()
    await (await Store.open(address, data_dir=tmp_path / "two")).close()


@posix
async def test_only_the_owner_reads_the_folder_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    store = await Store.open(address_in(folder), data_dir=folder)
    await store.sessions.create(plan())
    modes = {name: mode_of(folder / name) for name in names_in(folder)}
    await store.close()
    assert mode_of(folder) == 0o700
    assert {modes[f"council.db{end}"] for end in ("", "-wal", "-shm")} == {0o600}


@posix
async def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o750)
    await (await Store.open(address_in(tmp_path), data_dir=tmp_path)).close()
    assert mode_of(tmp_path) == 0o750


@posix
async def test_a_read_only_folder_is_refused_and_stays_as_it_was(open_to_all: Path) -> None:
    os.chmod(open_to_all, 0o555)
    async with child("nobody", open_to_all) as opener:
        (told,) = await opener.lines()
    assert told.startswith("storage_full")
    assert "--data-dir" in told
    assert names_in(open_to_all) == []


@posix
async def test_a_read_only_database_is_refused(open_to_all: Path) -> None:
    await (await Store.open(address_in(open_to_all), data_dir=open_to_all)).close()
    os.chmod(open_to_all, 0o777)
    os.chmod(open_to_all / "master.lock", 0o666)
    os.chmod(open_to_all / "council.db", 0o444)
    if os.geteuid() != 0:
        pytest.skip("the owner of a file can always make it writable")
    async with child("nobody", open_to_all) as opener:
        (told,) = await opener.lines()
    assert told.startswith("storage_full")


@posix
async def test_a_full_disk_is_said_loses_nothing_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    async with child("fill", tmp_path) as writer:
        session_id, *told = await writer.lines()
        assert await writer.end() == 0
    *kept, refused, after = told
    assert kept
    assert refused == f"storage_full {len(kept) + 1}"
    assert after == "done 1000"

    store = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    records = (await store.sessions.load(session_id)).records
    await store.close()
    assert sorted(one.attempt for one in records) == [*range(1, len(kept) + 1), 1000]
    with sqlite3.connect(tmp_path / "council.db") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


async def test_a_database_locked_by_another_program_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    asked = plan()
    await store.sessions.create(asked)
    await store.close()
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 50)
    hasty = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    other = sqlite3.connect(tmp_path / "council.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageBusyError) as raised:
        await hasty.sessions.begin_attempt(asked.session_id, running())
    assert raised.value.retry_after_s is not None
    assert (await hasty.sessions.load(asked.session_id)).records == ()  # readers are never locked out
    other.execute("ROLLBACK")
    other.close()
    await hasty.sessions.begin_attempt(asked.session_id, running())
    await hasty.close()


async def test_a_health_check_passes_on_a_good_disk_and_fails_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    await store.check()
    monkeypatch.setattr(database, "_LEAST_FREE_BYTES", 1 << 62)
    with pytest.raises(StorageFullError, match="are free"):
        await store.check()
    await store.close()


async def test_writes_that_are_cancelled_anywhere_leave_no_lock_and_no_connection_behind(
    store: Store,
) -> None:
    asked = plan()
    await store.sessions.create(asked)
    for number in range(1, 61):
        write = asyncio.create_task(store.sessions.finish_attempt(asked.session_id, done(attempt=number)))
        for _ in range(number % 20):
            await asyncio.sleep(0)
        if number % 3 == 0:
            await asyncio.sleep(0.0005)
        write.cancel()
        await asyncio.gather(write, return_exceptions=True)
    async with asyncio.timeout(5.0):
        await store.sessions.finish_attempt(asked.session_id, done(attempt=100))
    stored = await store.sessions.load(asked.session_id)
    assert all(one.text == done().text for one in stored.records)
    assert stored.records[-1].attempt == 100


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("council.db", "looks like sqlite:///"),
        ("postgresql://u:geheim@host:port/db", "looks like"),
        ("oddbase://host/db", "cannot be used"),
        ("mysql+aiomysql://u:geheim@host/db", "pip install aiomysql"),
    ],
)
async def test_an_address_that_cannot_work_says_what_would(address: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=words) as raised:
        await Store.open(address, data_dir=tmp_path)
    assert "geheim" not in raised.value.detail
