"""Masters on one server see each other come, go, lead and be used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from master.cluster.roll import lock_key
from master.state.database import parse_address
from master.state.presence import Presence


@asynccontextmanager
async def present(url: str, folder: Path, name: str) -> AsyncIterator[Presence]:
    home = folder / name
    await asyncio.to_thread(home.mkdir, exist_ok=True)
    presence = Presence(parse_address(url), name=name, version="1", data_dir=home)
    async with presence.running():
        yield presence


async def until(wanted: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not wanted():  # noqa: ASYNC110  # a look at the database is no event of ours
            await asyncio.sleep(0.05)


def cut(url: str, presence: Presence) -> None:
    """End a master's own connection, as a network does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
            "AND ((classid::bigint << 32) | objid::bigint) = %s",
            [lock_key(presence.id)],
        )
    connection.close()


async def test_masters_see_each_other_and_one_leads(postgres_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as first:
        a = await first.enter_async_context(present(postgres_url, tmp_path, "a"))
        assert (dict(a.peers), a.is_leader) == ({}, True)
        async with present(postgres_url, tmp_path, "b") as b:
            await b.announce("http://127.0.0.1:2")
            await until(lambda: b.id in a.peers and a.peers[b.id].url == "http://127.0.0.1:2")
            assert (b.peers[a.id].name, b.peers[a.id].is_leader, b.is_leader) == ("a", True, False)
            assert b.lives(a.id)
            await first.aclose()
            await until(lambda: b.is_leader)
            assert a.id not in b.peers  # it said good-bye
        async with present(postgres_url, tmp_path, "a") as again:
            assert not again.lives(a.id), "the last life in this folder is over"


async def test_a_connection_that_breaks_makes_nobody_dead(postgres_url: str, tmp_path: Path) -> None:
    async with present(postgres_url, tmp_path, "a") as a, present(postgres_url, tmp_path, "b") as b:
        await asyncio.to_thread(a.hold, "executor-1")
        assert b.lives("executor-1")
        await asyncio.to_thread(cut, postgres_url, a)
        await until(lambda: b.is_leader)
        for _ in range(40):
            assert b.lives(a.id)
            assert b.lives("executor-1")
            await asyncio.sleep(0.05)
        assert b.id in a.peers
        await asyncio.to_thread(a.release, "executor-1")
        await until(lambda: not b.lives("executor-1"))
        assert b.lives(a.id)


async def test_a_process_that_only_runs_jobs_lives_among_masters_and_is_none(
    postgres_url: str, tmp_path: Path
) -> None:
    worker = Presence(parse_address(postgres_url), name="job worker", version="1", data_dir=None)
    async with present(postgres_url, tmp_path, "a") as a:
        async with worker.running():
            await asyncio.to_thread(worker.hold, "worker-1")
            for _ in range(30):
                assert a.lives("worker-1")
                await asyncio.sleep(0.05)
            assert (dict(a.peers), a.is_leader, worker.is_leader) == ({}, True, False)
            assert worker.lives(a.id)
        await until(lambda: not a.lives("worker-1"))


@pytest.mark.parametrize("seconds_ago", [0.0, 42.0])
async def test_who_uses_one_master_is_heard_by_the_other(
    postgres_url: str, tmp_path: Path, seconds_ago: float
) -> None:
    heard: list[float] = []
    async with present(postgres_url, tmp_path, "a") as a, present(postgres_url, tmp_path, "b") as b:
        b.on_use_elsewhere = heard.append
        a.used_s_ago = lambda: seconds_ago
        await until(lambda: bool(heard))
    assert abs(heard[0] - seconds_ago) < 2.0
