"""The gate of a real master: shut while somebody asks, open soon after, shut again at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.service.cli.command import Council
from tests.service.master import rig
from tests.service.master.rig import Rig, assert_full
from tests.standin import Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = {
    "BG_IDLE_THRESHOLD": "0.6",
    "BG_LONG_IDLE_THRESHOLD": "1.2",
    "BG_MAX_CPU": "1",
    "BG_MAX_MEMORY": "1",
    "COUNCIL_JOB_TYPES": "tests.service.background.scripted:TYPES",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig.running(tmp_path_factory.mktemp("gate"), env=SHORT) as found:
        yield found


async def gate(cluster: Rig) -> dict[str, Any]:
    response = await cluster.client.get("/api/background/gate")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def until(cluster: Rig, *states: str, within_s: float = 15.0) -> dict[str, Any]:
    async with asyncio.timeout(within_s):
        while True:
            shown = await gate(cluster)
            if shown["state"] in states:
                return shown
            await asyncio.sleep(0.02)


async def test_a_question_shuts_the_gate_until_it_is_answered_and_some_time_after(cluster: Rig) -> None:
    shown = await until(cluster, "idle", "long_idle")
    assert shown["reason"].startswith("open: nothing interactive for")
    cluster.standin.add_faults(Fault("stall", model=rig.CHAIRMAN, after_tokens=2, times=1))
    opened = await cluster.open()
    await cluster.writing(opened["id"], "synthesis")
    shown = await gate(cluster)
    assert (shown["state"], shown["open"], shown["interactive_calls"]) == ("active", False, 1)
    assert shown["reason"] == "waiting: an interactive call runs"
    assert [one["state"] for one in shown["nodes"]] == ["active"]
    await cluster.client.post(f"/api/council/sessions/{opened['id']}/cancel")
    shown = await until(cluster, "cooling", "idle")
    await until(cluster, "long_idle")


async def test_a_job_waits_while_somebody_asks_goes_on_when_idle_and_stops_at_once(cluster: Rig) -> None:
    await until(cluster, "long_idle")
    cluster.standin.set_model(rig.model("m4", token_ms=4))
    cluster.standin.add_faults(Fault("stall", model=rig.CHAIRMAN, after_tokens=2, times=1))
    opened = await cluster.open()
    await cluster.writing(opened["id"], "synthesis")
    asking = {"type": "asking", "input": {"calls": 8, "model": "m4"}}
    job = (await cluster.client.post("/api/background/jobs", json=asking)).json()

    async def shown() -> dict[str, Any]:
        found: dict[str, Any] = (await cluster.client.get(f"/api/background/task/{job['id']}")).json()
        return found

    def calls() -> int:
        return len(cluster.standin.calls(kind="chat", model="m4"))

    status = (await cluster.client.get("/api/background/status")).json()
    assert status["waiting_for"] == "waiting: an interactive call runs"
    assert ((await shown())["state"], calls()) == ("queued", 0)
    await cluster.client.post(f"/api/council/sessions/{opened['id']}/cancel")
    async with asyncio.timeout(20):
        while (await shown())["progress"]["done"] < 2:
            continue
    for _ in range(12):  # somebody types for a while
        await cluster.client.post("/api/background/register_activity")
        before = calls()
        await asyncio.sleep(0.1)
    assert calls() == before
    assert (await shown())["progress"]["done"] < 8
    async with asyncio.timeout(30):
        while (ended := await shown())["state"] not in ("done", "dead"):
            continue
    assert (ended["state"], ended["attempts"], calls()) == ("done", 0, 8)


async def test_looking_keeps_no_gate_shut(cluster: Rig) -> None:
    await until(cluster, "long_idle")
    for path in ("/health", "/health/system", "/metrics", "/api/council/sessions", "/api/cluster/workers"):
        assert (await cluster.client.get(path)).status_code == 200
    assert (await gate(cluster))["state"] == "long_idle"


@pytest.mark.parametrize("body", [None, {}], ids=["no body", "an empty one"])
async def test_a_program_may_say_that_somebody_is_there(cluster: Rig, body: dict[str, Any] | None) -> None:
    await until(cluster, "long_idle")
    response = await cluster.client.post("/api/background/register_activity", json=body)
    assert response.json()["state"] == "active"
    assert (await gate(cluster))["state"] in ("active", "cooling")


async def test_use_of_one_machine_is_told_by_its_name(cluster: Rig) -> None:
    await until(cluster, "long_idle")
    answer = await cluster.client.post("/api/background/register_activity", json={"node": "pc2"})
    assert answer.json()["state"] == "active"
    assert (await gate(cluster))["state"] == "held"
    unknown = await cluster.client.post("/api/background/register_activity", json={"node": "pc9"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    wrong = await cluster.client.post("/api/background/register_activity", json={"nodes": "pc2"})
    assert wrong.status_code == 422


async def test_every_way_to_ask_shuts_the_gate(cluster: Rig) -> None:
    chat = {"model": "m1", "messages": [{"role": "user", "content": "Hello"}]}
    await until(cluster, "long_idle")
    assert (await cluster.client.post("/v1/chat/completions", json=chat)).status_code == 200
    assert (await gate(cluster))["state"] != "long_idle"
    await until(cluster, "long_idle")
    assert_full(session := await cluster.council())
    assert (await gate(cluster))["state"] != "long_idle"
    await until(cluster, "long_idle")
    assert (await cluster.client.delete(f"/api/council/sessions/{session['id']}")).status_code == 204
    assert (await gate(cluster))["state"] in ("active", "cooling")


async def test_the_status_of_background_work_tells_of_the_gate_and_of_habits(cluster: Rig) -> None:
    shown = (await cluster.client.get("/api/background/status")).json()["gate"]
    assert shown.keys() == (await gate(cluster)).keys()
    assert shown["habits"] == {"usual": [], "expected_quiet_s": None, "hours_known": 0}
    assert (await cluster.client.delete("/api/background/gate/habits")).status_code == 204


async def test_the_gate_is_measured(cluster: Rig) -> None:
    await until(cluster, "long_idle")
    metrics = (await cluster.client.get("/metrics")).text
    assert "council_gate_open 1.0" in metrics
    assert 'council_gate_moves_total{state="active"}' in metrics


async def test_the_command_shows_the_gate_and_what_engines_take(cluster: Rig, tmp_path: Path) -> None:
    async def council(*words: str) -> str:
        done = await asyncio.to_thread(Council(tmp_path).run, *words, "--url", cluster.master.url)
        assert (done.code, done.err) == (0, "")
        return done.out

    await until(cluster, "long_idle")
    told = await council("jobs", "gate")
    assert told.startswith("open: nothing interactive for")
    assert "pc2" in told
    assert json.loads(await council("jobs", "gate", "--json"))["open"]
    async with asyncio.timeout(20):
        while "main" not in (status := await council("jobs", "status")):
            continue
    assert "master on " in status
    shown = await council("worker", "show", "pc2")
    assert "open: nothing interactive for" in shown
    assert "What it takes" in shown


async def test_what_others_take_of_the_machine_is_told(cluster: Rig) -> None:
    async with asyncio.timeout(20):
        while not (found := (await gate(cluster))["nodes"]):
            continue
    [found] = found
    assert 0 <= found["foreign_cpu"] <= 1
    assert 0 < found["free_memory"] < 1
    assert 0 <= found["foreign_memory"] < 1
