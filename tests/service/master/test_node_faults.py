"""Nodes that die, freeze and stop in every stage of a session, with and without another node."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from tests.haste import soon
from tests.processes import Program
from tests.service.master import rig
from tests.service.master.rig import CHAIRMAN, MODELS, SEATS, Rig, assert_full

STAGES = ("opinions", "review", "synthesis")
SLOW = [rig.model(name, token_ms=50, answer_tokens=30) for name in MODELS]
Events = list[dict[str, Any]]


def of_type(events: Events, kind: str) -> Events:
    return [event for event in events if event["type"] == kind]


async def caught(cluster: Rig, stage: str) -> tuple[str, asyncio.Task[Events], str]:
    """A session with a call that writes in that stage: its id, its events to come, and the call's node."""
    opened = await cluster.open()
    watching = asyncio.create_task(cluster.all_events(opened["id"]))
    nodes: dict[str, str] = {}

    def writes(event: dict[str, Any]) -> bool:
        if event.get("stage") != stage:
            return False
        if event["type"] == "call.started":
            nodes[event["agent_id"]] = event["node"]
        return bool(event["type"] == "call.delta")

    # By one reading of the events: a second one takes time, in which the call may end.
    delta = await cluster.reach(opened["id"], writes)
    return opened["id"], watching, nodes[delta["agent_id"]]


def node_of(cluster: Rig, name: str) -> Program:
    return cluster.nodes[name]


@pytest.mark.parametrize("stage", STAGES)
async def test_a_node_killed_while_another_lives_costs_a_restart_and_nothing_else(
    tmp_path: Path, stage: str
) -> None:
    async with rig.running(tmp_path, models=SLOW, nodes=("pc2", "pc3"), slots=2) as cluster:
        session_id, watching, name = await caught(cluster, stage)
        node_of(cluster, name).kill()
        events = await watching
        session = await cluster.get(session_id)
        # The engine hears of the death when it writes next.
        await cluster.standin.until(lambda server: not any(server.counters.in_flight.values()))
    assert_full(session)
    restarted = of_type(events, "call.restarted")
    assert restarted
    assert {event["from_node"] for event in restarted} == {name}
    assert {event["to_node"] for event in restarted} == {"pc2", "pc3"} - {name}
    assert {event["reason"] for event in restarted} <= {"stream_cut", "node_unreachable"}
    assert stage in {event["stage"] for event in restarted}
    assert events[-1]["type"] == "session.completed"
    # Each attempt counts once: what was reported, and at most what the engine wrote for the killed calls.
    lost = [one for one in cluster.standin.calls(kind="chat", outcome="cancelled") if one.messages]
    _, completion = rig.reported_tokens(cluster.standin)
    counted = session["token_usage"]["total_completion_tokens"]
    assert completion <= counted <= completion + sum(one.tokens_sent for one in lost)


ALONE = {
    "opinions": ("failed", None),
    "review": ("completed", "degraded"),
    "synthesis": ("completed", "degraded"),
}


@pytest.mark.parametrize("stage", STAGES)
async def test_the_only_node_killed_ends_the_session_soon_and_honestly(tmp_path: Path, stage: str) -> None:
    env = {"COUNCIL_NO_NODE_TIMEOUT_S": "4"}
    async with rig.running(tmp_path, models=SLOW, env=env) as cluster:
        session_id, watching, name = await caught(cluster, stage)
        node_of(cluster, name).kill()
        killed = time.monotonic()
        events = await watching
        session = await cluster.get(session_id)
        # One wait for the node is enough: the chairman and three seats in turn would wait 16 s.
        assert time.monotonic() - killed < 12
        health = await cluster.client.get("/health")
        assert (health.status_code, health.json()["checks"]["nodes"]) == (503, "none")
    assert (session["state"], session["result"]) == ALONE[stage]
    failed = of_type(events, "call.failed")
    assert {event["error"]["code"] for event in failed} == {"node_unreachable"}
    assert all("pc2" in event["error"]["detail"] for event in failed)
    if stage == "opinions":
        assert session["error"]["code"] == "quorum_not_met"
        assert session["missing_agents"] == ["agent_1", "agent_2", "agent_3"]
    else:
        assert session["missing_agents"] == []
        assert session["synthesis"]["kind"] == "top_ranked"
        assert session["synthesis"]["text"] in [one["opinion"] for one in session["agents"]]
    if stage == "review":
        assert [one["review_state"] for one in session["agents"]] == ["failed"] * 3
        assert session["ranking"] == []
    # A call that broke off is counted once, though a second attempt found no node any more.
    written = sum(one.tokens_sent for one in cluster.standin.calls(kind="chat") if one.messages)
    assert session["token_usage"]["total_completion_tokens"] <= written


async def test_the_only_node_back_in_time_is_used_again(tmp_path: Path) -> None:
    """What `systemctl restart` does: the address stays, the process is another one."""
    env = {"COUNCIL_NO_NODE_TIMEOUT_S": "20"}
    async with rig.running(tmp_path, models=SLOW, env=env) as cluster:
        session_id, watching, name = await caught(cluster, "opinions")
        port = node_of(cluster, name).url.rsplit(":", 1)[-1]
        node_of(cluster, name).kill()
        await node_of(cluster, name).wait()
        await cluster.another_node(name, "--port", port)
        events = await watching
        session = await cluster.get(session_id)
    assert_full(session)
    assert of_type(events, "call.restarted")


@pytest.mark.timeout(400)
async def test_a_frozen_node_is_found_within_six_seconds_and_its_calls_run_elsewhere(tmp_path: Path) -> None:
    lives = itertools.count()

    async def found_s() -> float:
        folder = tmp_path / str(next(lives))
        async with rig.running(folder, models=SLOW, nodes=("pc2", "pc3"), slots=2) as cluster:
            for name in SEATS:
                cluster.standin.set_model(rig.model(name, token_ms=60))
            session_id, watching, name = await caught(cluster, "opinions")
            frozen = node_of(cluster, name)
            frozen.freeze()
            since = time.monotonic()
            try:
                await cluster.reach(session_id, lambda event: event["type"] == "call.restarted")
                took_s = time.monotonic() - since
                events = await watching
                session = await cluster.get(session_id)
            finally:
                frozen.thaw()
            assert_full(session)
            restarted = of_type(events, "call.restarted")
            assert {event["reason"] for event in restarted} == {"node_frozen"}
            assert name not in {event["to_node"] for event in restarted}
            # Thawed, it comes back and takes part again.
            await cluster.settle()
            assert_full(await cluster.council())
        return took_s

    await soon(6.5, found_s)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_node_that_is_stopped_hands_its_calls_back_without_a_failure(
    tmp_path: Path, stage: str
) -> None:
    drain = {"COUNCIL_NODE_DRAIN_TIMEOUT": "0.1"}
    async with rig.running(tmp_path, models=SLOW, nodes=("pc2", "pc3"), slots=2, node_env=drain) as cluster:
        session_id, watching, name = await caught(cluster, stage)
        node_of(cluster, name).terminate()
        assert await node_of(cluster, name).wait() == 0
        events = await watching
        session = await cluster.get(session_id)
    assert_full(session)
    assert session["warnings"] == []
    restarted = of_type(events, "call.restarted")
    assert {event["reason"] for event in restarted} <= {"node_draining", "node_unreachable"}
    assert "node_draining" in {event["reason"] for event in restarted}
    assert of_type(events, "call.failed") == []


async def test_a_node_that_is_stopped_ends_what_it_can_before_its_limit(tmp_path: Path) -> None:
    drain = {"COUNCIL_NODE_DRAIN_TIMEOUT": "10"}
    async with rig.running(tmp_path, models=SLOW, nodes=("pc2", "pc3"), slots=2, node_env=drain) as cluster:
        session_id, watching, name = await caught(cluster, "synthesis")
        node_of(cluster, name).terminate()
        events = await watching
        session = await cluster.get(session_id)
        assert await node_of(cluster, name).wait() == 0
    assert_full(session)
    assert session["synthesis"]["node"] == name
    assert of_type(events, "call.restarted") == []
    assert len(cluster.standin.calls(model=CHAIRMAN, kind="chat", outcome="done")) == 1
