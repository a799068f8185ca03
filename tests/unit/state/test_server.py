"""A PostgreSQL server that is away, restarts, is locked or slow: said clearly, and over when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from common.errors import StorageBusyError
from master.state import database
from master.state.store import Store
from tests import postgres
from tests.conftest import require_postgres
from tests.postgres import OwnServer
from tests.unit.state.builders import done, plan, running


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    require_postgres()
    with postgres.own_server() as server:
        server.start()
        yield server


@asynccontextmanager
async def open_store(url: str, folder: Path) -> AsyncIterator[Store]:
    store = await Store.open(url, data_dir=folder)
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("at_once", [False, True], ids=["in order", "by a crash"])
async def test_a_server_that_restarts_is_waited_for_and_nothing_is_lost(
    own_server: OwnServer, tmp_path: Path, at_once: bool
) -> None:
    url = f"postgresql://council@127.0.0.1:{own_server.port}/postgres"
    async with open_store(url, tmp_path) as store:
        asked = plan()
        await store.sessions.create(asked)
        told: list[int] = []
        some = asyncio.Event()

        async def write() -> None:
            for number in range(1, 400):
                await store.sessions.finish_attempt(asked.session_id, done(attempt=number))
                told.append(number)
                some.set()
                if stopped.is_set() and back.is_set() and len(told) > 20:
                    return

        stopped, back = asyncio.Event(), asyncio.Event()
        writing = asyncio.create_task(write())
        await some.wait()
        await asyncio.to_thread(own_server.stop, at_once=at_once)
        stopped.set()
        reading = asyncio.create_task(store.sessions.load(asked.session_id))
        await asyncio.sleep(0.3)
        assert not reading.done()
        await asyncio.to_thread(own_server.start)
        back.set()
        async with asyncio.timeout(10):
            await writing
            await reading
        stored = await store.sessions.load(asked.session_id)
        assert sorted(one.attempt for one in stored.records) == told


async def test_a_server_that_stays_away_is_busy_and_the_store_recovers_by_itself(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_RECONNECT_S", 0.3)
    url = f"postgresql://council:geheim@127.0.0.1:{own_server.port}/postgres"
    async with open_store(url, tmp_path) as store:
        asked = plan()
        await store.sessions.create(asked)
        await asyncio.to_thread(own_server.stop)
        for _ in range(2):
            with pytest.raises(StorageBusyError, match="does not answer") as raised:
                await store.sessions.begin_attempt(asked.session_id, running())
        assert "geheim" not in raised.value.detail
        assert raised.value.retry_after_s is not None
        with pytest.raises(StorageBusyError):
            await store.check()
        await asyncio.to_thread(own_server.start)
        await store.check()
        await store.sessions.begin_attempt(asked.session_id, running())


async def test_a_master_that_starts_without_its_server_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageBusyError, match=r"does not answer .*refused.*; see that it runs"):
        await Store.open("postgresql://council@127.0.0.1:9/council", data_dir=tmp_path)


async def test_a_locked_row_is_busy_after_a_time_and_not_for_ever(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(database._SERVER, "options", "-c lock_timeout=100ms -c statement_timeout=400ms")
    async with open_store(postgres_url, tmp_path) as store:
        asked = plan()
        await store.sessions.create(asked)
        other = await asyncio.to_thread(lambda: psycopg.connect(postgres_url))
        with other:
            other.execute("SELECT 1 FROM sessions FOR UPDATE")
            with pytest.raises(StorageBusyError, match="busy"):
                await store.sessions.set_state(asked.session_id, "review")
            assert (await store.sessions.load(asked.session_id)).state == "queued"  # readers go on
        other.close()
        await store.sessions.set_state(asked.session_id, "review")


async def test_masters_that_start_together_migrate_once(empty_postgres_url: str, tmp_path: Path) -> None:
    opened = await asyncio.gather(
        *(Store.open(empty_postgres_url, data_dir=tmp_path / str(number)) for number in range(3))
    )
    for store in opened:
        await store.check()
        await store.close()
