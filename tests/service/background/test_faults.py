"""Disks that are full and databases that are locked while jobs run: clear errors, nothing half-written."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from common.errors import StorageBusyError, StorageFullError
from master.state import database
from tests.service.background.workshop import Workshop, workshop


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workshop]:
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 100)
    async with workshop(tmp_path) as found:
        yield found


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow, or be written behind its first KiB."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody else writes in this database all the time."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
async def test_a_full_disk_is_told_and_jobs_go_on_when_there_is_room_again(
    shop: Workshop, tmp_path: Path
) -> None:
    job_id = await shop.submit("waiting", {"folder": str(tmp_path)})
    await shop.reaches(job_id, "running")
    with full_disk():
        with pytest.raises(StorageFullError):
            await shop.submit("nothing")
        (tmp_path / "go").touch()
        async with asyncio.timeout(15):
            while job_id in shop.jobs.executor.running_ids:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    job = await shop.reaches(job_id)
    assert (job.state, job.result) == ("done", {"went": True})
    assert await shop.store.jobs.counts() == {"done": {"waiting": 1}}
    assert (await shop.reaches(await shop.submit("nothing"))).state == "done"


async def test_a_locked_database_is_told_and_jobs_go_on_when_it_is_free(
    shop: Workshop, tmp_path: Path
) -> None:
    job_id = await shop.submit("waiting", {"folder": str(tmp_path)})
    await shop.reaches(job_id, "running")
    with locked(tmp_path / "council.db"):
        with pytest.raises(StorageBusyError):
            await shop.submit("nothing")
        (tmp_path / "go").touch()
        async with asyncio.timeout(15):
            while job_id in shop.jobs.executor.running_ids:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    job = await shop.reaches(job_id)
    assert (job.state, job.result, job.attempts) == ("done", {"went": True}, 0)
    assert await shop.store.jobs.counts() == {"done": {"waiting": 1}}


async def test_a_job_engine_whose_file_is_gone_costs_finished_steps_and_no_job(tmp_path: Path) -> None:
    async with workshop(tmp_path, is_open=False) as shop:
        job_id = await shop.submit("steps", {"folder": str(tmp_path)})
    for suffix in ("", "-wal", "-shm"):
        await asyncio.to_thread((tmp_path / f"council-jobs.db{suffix}").unlink, missing_ok=True)
    async with workshop(tmp_path) as shop:
        assert (await shop.reaches(job_id)).result == {"total": 6}
