"""Two masters on one PostgreSQL: either answers for all, and the other goes on when one dies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import processes
from tests.conftest import require_postgres
from tests.haste import soon
from tests.postgres import PostgresServer, own_server
from tests.service.master.accounts import calls_of, rows
from tests.service.master.rig import SEATS, assert_full, model
from tests.service.masters.pair import Pair, pair
from tests.standin import Fault
from tests.standin.model import Reply

SLOTS = 3
# The gate is open: jobs run whatever this machine does.
OPEN = {
    "BG_IDLE_THRESHOLD": "0",
    "BG_LONG_IDLE_THRESHOLD": "0",
    "BG_MAX_CPU": "1",
    "BG_MAX_MEMORY": "1",
    "COUNCIL_JOB_TYPES": "tests.service.masters.job_types:TYPES,tests.service.background.scripted:TYPES",
}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Pair]:
    with postgres_server.database() as url:
        async with pair(tmp_path_factory.mktemp("masters"), url, slots=SLOTS, env=OPEN) as found:
            yield found


@pytest_asyncio.fixture(loop_scope="module")
async def two(shared: Pair) -> Pair:
    """Both masters, and an engine that has forgotten all."""
    await shared.both()
    return shared


async def test_a_session_of_one_master_is_watched_whole_through_the_other(two: Pair) -> None:
    session_id = await two.ask("a")
    async with asyncio.timeout(30):
        seen = [event async for event in two.socket("b", session_id)]
        beside = [event async for event in two.socket("a", session_id)]
    assert seen == beside
    assert [event["seq"] for event in seen] == list(range(seen[0]["seq"], seen[-1]["seq"] + 1))
    assert seen[-1]["type"] == "session.completed"
    for name in ("a", "b"):
        assert_full((await two.request(name, "GET", f"/{session_id}")).json())
    headers = {"accept": "text/event-stream", "last-event-id": str(seen[-1]["seq"])}
    assert (await two.request("b", "GET", f"/{session_id}/events", headers=headers)).status_code == 204
    exported = await two.request("b", "GET", f"/{session_id}/export?format=md")
    assert exported.headers["content-type"].startswith("text/markdown")


async def test_what_is_asked_of_the_other_master_reaches_the_one_that_has_the_session(two: Pair) -> None:
    two.standin.add_faults(Fault("endless", model="m3"))
    session_id = await two.ask("a", selected_agents=["m3"])
    # Who only says that a master sent it on is no master.
    cancelled = await two.request("b", "POST", f"/{session_id}/cancel", headers={"x-council-hop": "a"})
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    again = await two.request("b", "POST", f"/{session_id}/cancel")
    assert again.status_code == 409
    two.standin.reset()
    await two.anew()
    retried = await two.request("b", "POST", f"/{session_id}/agents/agent_1/retry")
    assert retried.status_code == 202, retried.text
    assert (await two.ended("b", session_id))["state"] == "completed"
    assert (await two.request("b", "DELETE", f"/{session_id}")).status_code == 204
    for name in ("a", "b"):
        assert (await two.request(name, "GET", f"/{session_id}")).status_code == 404
    unknown = await two.request("b", "POST", "/00000000-0000-0000-0000-000000000000/cancel")
    assert unknown.status_code == 404


async def test_a_key_sent_to_both_masters_opens_one_session_and_both_wait_for_its_end(two: Pair) -> None:
    headers = {"idempotency-key": f"both-{time.time_ns()}"}
    body = {"question": "Twice?", "selected_agents": list(SEATS), "chairman": "boss"}
    answers = await asyncio.gather(
        *(
            two.request(name, "POST", "?wait=true&wait_s=30", json=body, headers=headers)
            for name in ("a", "b")
        )
    )
    assert [one.status_code for one in answers] == [201, 201]
    assert len({one.json()["id"] for one in answers}) == 1
    for one in answers:
        assert_full(one.json())


@pytest.mark.parametrize("how", ["by kill -9", "in order"])
@pytest.mark.timeout(400)
async def test_a_master_that_ends_is_succeeded_and_a_watcher_at_the_other_sees_it_through(
    two: Pair, how: str
) -> None:
    async def succeeded_s() -> float:
        await two.both()
        two.standin.add_faults(Fault("stall", model="m3", after_tokens=3, has_format=False))
        session_id = await two.ask("a")
        first = two.owner(session_id)
        watched: list[dict[str, Any]] = []
        writes = asyncio.Event()

        async def watch() -> None:
            async for event in two.socket("b", session_id):
                watched.append(event)
                if event["type"] == "call.delta" and event["agent_id"] == "agent_3":
                    writes.set()

        watching = asyncio.create_task(watch())
        async with asyncio.timeout(30):
            await writes.wait()
        await two.rows_say(lambda: calls_of(two.attempts(session_id), "done").total() == 2)
        before = len(watched)
        if how == "in order":
            await two.stop("a")
        else:
            await two.kill("a")
        gone_at = time.monotonic()
        await two.rows_say(lambda: two.owner(session_id) != first)
        took_s = time.monotonic() - gone_at
        async with asyncio.timeout(60):
            await watching
        kinds = [event["type"] for event in watched[before:]]
        assert kinds[-1] == "session.completed"
        assert "snapshot" in kinds
        numbers = [event["seq"] for event in watched]
        assert numbers == sorted(set(numbers))
        assert_full(await two.ended("b", session_id))
        two.assert_nothing_ran_twice(session_id)
        assert sum(row["outcome"] == "interrupted" for row in two.attempts(session_id)) == 1
        return took_s

    await soon(5.0, succeeded_s)


async def test_a_node_that_one_master_is_told_of_is_used_drained_and_forgotten_by_both(two: Pair) -> None:
    async with (
        processes.node(two.folder / "node-3", name="pc3", ollama=two.standin.base_url) as third,
        two.client(two.masters["a"]) as a,
        two.client(two.masters["b"]) as b,
    ):
        added = await a.post("/api/cluster/workers", json={"url": third.url, "name": "pc3"})
        assert added.status_code == 201, added.text
        await two.known_nodes("b", {"pc2", "pc3"})
        assert (await b.post("/api/cluster/workers/pc2/drain")).status_code == 200
        session_id = await two.ask("b", selected_agents=["m1", "m2"])
        ended = await two.ended("b", session_id)
        assert {one["node"] for one in ended["agents"]} == {"pc3"}
        assert (await b.post("/api/cluster/workers/pc2/resume")).status_code == 200
        assert (await b.delete("/api/cluster/workers/pc3")).status_code == 204
        await two.known_nodes("a", {"pc2"})


async def test_a_node_that_is_slow_to_hear_that_it_is_removed_is_removed_all_the_same(two: Pair) -> None:
    async with (
        processes.node(two.folder / "node-4", name="pc4", ollama=two.standin.base_url) as fourth,
        two.client(two.masters["a"]) as a,
        two.client(two.masters["b"]) as b,
    ):
        added = await a.post("/api/cluster/workers", json={"url": fourth.url, "name": "pc4"})
        assert added.status_code == 201, added.text
        await two.known_nodes("b", {"pc2", "pc4"})
        fourth.freeze()  # meanwhile this master looks at the database, in which the node is no more
        removed = await b.delete("/api/cluster/workers/pc4")
        assert removed.status_code == 204, removed.text
        await two.known_nodes("a", {"pc2"})
        await two.known_nodes("b", {"pc2"})


@pytest.mark.timeout(400)
async def test_a_job_of_a_dead_master_goes_on_at_the_other_behind_its_last_finished_step(
    two: Pair, tmp_path: Path
) -> None:
    async def taken_over_s() -> float:
        await two.both()
        folder = tmp_path / str(two.lives)
        folder.mkdir()
        await two.stop("b")
        job = await two.submit("a", "halting", {"folder": str(folder)})
        await two.rows_say((folder / "first.1").exists)
        await two.start("b")
        await two.kill("a")
        gone_at = time.monotonic()
        its_owner = f"SELECT owner FROM jobs WHERE id = '{job}'"
        owners = rows(two.database, its_owner)
        await two.rows_say(lambda: rows(two.database, its_owner) != owners)
        took_s = time.monotonic() - gone_at
        (folder / "go").touch()
        ended = await two.job_ended("b", job)
        assert (ended["state"], ended["result"]) == ("done", {"first": 1, "last": 1})
        return took_s

    await soon(5.0, taken_over_s)


async def test_background_work_of_one_master_makes_room_for_people_at_the_other(two: Pair) -> None:
    two.standin.set_model(model("m4", token_ms=100, reply=Reply(" ".join(["word"] * 100))))
    jobs = [await two.submit("a", "asking", {"model": "m4"}) for _ in range(2)]
    await two.standin.until(lambda s: sum(one.outcome == "running" for one in s.log) == 2, 20)
    body = {"model": "m4", "messages": [{"role": "user", "content": "Quick?"}], "max_tokens": 5}
    async with two.client(two.masters["b"]) as b:
        answers = await asyncio.gather(*(b.post("/v1/chat/completions", json=body) for _ in range(SLOTS)))
    assert [one.status_code for one in answers] == [200] * SLOTS
    ended_well = [one for one in two.standin.log if one.outcome == "done" and one.tokens_sent > 5]
    assert not ended_well, "nobody waited for a background call to end"
    two.standin.set_model(model("m4"))
    for job_id in jobs:
        ended = await two.job_ended("a", job_id)
        assert (ended["state"], ended["attempts"]) == ("done", 0), ended
    assert "preempted" in str([row["error"] for row in rows(two.database, "SELECT error FROM job_calls")])


async def test_both_masters_together_never_run_more_at_the_engine_than_its_slots(two: Pair) -> None:
    for seat in SEATS:  # long enough for all sessions to be there at once, however busy this machine is
        two.standin.set_model(model(seat, token_ms=60))
    asked = await asyncio.gather(*(two.ask(name) for _ in range(4) for name in ("a", "b")))
    for number, session_id in enumerate(asked):
        assert_full(await two.ended("ab"[number % 2], session_id))
    # From its arrival on: nobody waits in the engine either.
    at_engine = Counter[str]()
    most = Counter[str]()
    for _, change, name in sorted(
        (at, change, one.model)
        for one in two.standin.log
        if one.kind == "chat" and one.finished_ms is not None
        for at, change in ((one.received_ms, 1), (one.finished_ms, -1))
    ):
        at_engine[name] += change
        most[name] = max(most[name], at_engine[name])
    assert max(most.values()) == SLOTS


@pytest.mark.parametrize(
    "at_once",
    [pytest.param(False, marks=pytest.mark.long, id="in order"), pytest.param(True, id="by a crash")],
)
async def test_a_server_that_restarts_costs_no_session_and_makes_nobody_dead(
    tmp_path_factory: pytest.TempPathFactory, at_once: bool
) -> None:
    require_postgres()
    with own_server() as server:
        url = server.start().url("postgres")
        quick = {"COUNCIL_STALL_TIMEOUT_S": "3"}
        async with pair(tmp_path_factory.mktemp("restart"), url, env=quick) as two:
            two.standin.add_faults(Fault("stall", model="m3", after_tokens=3, has_format=False))
            session_id = await two.ask("a")
            owner = two.owner(session_id)
            await two.rows_say(lambda: calls_of(two.attempts(session_id), "done").total() == 2)
            await asyncio.to_thread(server.stop, at_once=at_once)
            await asyncio.sleep(1.0)
            await asyncio.to_thread(server.start)
            two.standin.reset()
            ended = await two.ended("a", session_id, within_s=60)
            assert two.owner(session_id) == owner
            assert ended["state"] == "completed"
