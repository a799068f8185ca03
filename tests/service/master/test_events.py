"""What a watcher sees: every event once, in order, however it comes, leaves and returns."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket as sockets
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests import processes
from tests.service.master.lives import nursery
from tests.service.master.rig import CHAIRMAN, SEATS, Rig, assert_full, model
from tests.service.master.sockets import Event, read, socket_to, text_of, types, watch
from tests.standin import Fault, StandInOllama
from tests.standin.model import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

DROPS = 50


async def _sse(rig: Rig, session_id: str, after: int | None = None, limit: int = 1 << 30) -> list[Event]:
    """Events by SSE to the end, or until `limit` have come; then the connection is dropped."""
    headers = {"accept": "text/event-stream"}
    if after is not None:
        headers["last-event-id"] = str(after)
    address = f"/api/council/sessions/{session_id}/events"
    events: list[Event] = []
    async with rig.client.stream("GET", address, headers=headers) as response:
        number = 0
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                assert events[-1]["seq"] == number
                if len(events) >= limit:
                    break
    return events


def _gap_free(events: list[Event], first: int = 1) -> None:
    assert [event["seq"] for event in events] == list(range(first, first + len(events)))


def _held_open(rig: Rig) -> None:
    """A session that goes on, event by event, until `_let_end`: on a slow machine drops take their time."""
    _slower(rig)
    rig.standin.add_faults(Fault("endless", model="m1", has_format=False))


def _let_end(rig: Rig) -> None:
    """What is cut off is asked for once more, and comes to its end then."""
    rig.standin.drop_all_connections()


def _slower(rig: Rig) -> None:
    """A session of some seconds, with several hundred events."""
    for name in (*SEATS, CHAIRMAN):
        rig.standin.set_model(model(name, token_ms=8, answer_tokens=120))


# -- coming and going -------------------------------------------------------------------------------------


async def test_a_socket_that_drops_50_times_has_every_event_exactly_once(cluster: Rig) -> None:
    _held_open(cluster)
    session_id = (await cluster.open())["id"]
    whole = asyncio.create_task(watch(cluster.master.url, session_id))
    seen: list[Event] = []
    for drop in range(DROPS):
        async with socket_to(cluster.master.url, session_id, seen[-1]["seq"] if seen else 0) as socket:
            for _ in range(1 + drop % 4):
                seen.append(json.loads(await socket.recv()))
            if drop % 2:
                socket.transport.abort()  # as a cable that is pulled
    assert seen[-1]["type"] != "session.completed"
    _let_end(cluster)
    rest, code = await watch(cluster.master.url, session_id, seen[-1]["seq"])
    seen += rest
    assert code == 1000
    _gap_free(seen)
    assert seen == (await whole)[0]
    assert types(seen)[-1] == "session.completed"
    assert_full(await cluster.get(session_id))


async def test_a_stream_of_server_sent_events_that_drops_50_times_has_every_event_exactly_once(
    cluster: Rig,
) -> None:
    _held_open(cluster)
    session_id = (await cluster.open())["id"]
    whole = asyncio.create_task(_sse(cluster, session_id))
    seen: list[Event] = []
    for drop in range(DROPS):
        seen += await _sse(cluster, session_id, seen[-1]["seq"] if seen else None, limit=1 + drop % 4)
    assert seen[-1]["type"] != "session.completed"
    _let_end(cluster)
    seen += await _sse(cluster, session_id, seen[-1]["seq"])
    _gap_free(seen)
    assert seen == await whole
    assert types(seen)[-1] == "session.completed"


async def test_every_watcher_sees_the_same_whenever_it_comes(cluster: Rig) -> None:
    _slower(cluster)
    session_id = (await cluster.open())["id"]
    early = [asyncio.create_task(watch(cluster.master.url, session_id)) for _ in range(19)]
    await cluster.writing(session_id, "review")
    late = asyncio.create_task(watch(cluster.master.url, session_id))
    watched = [await one for one in (*early, late)]
    after_the_end = await watch(cluster.master.url, session_id)
    events = after_the_end[0]
    _gap_free(events)
    assert all(one == (events, 1000) for one in watched)
    assert (await _sse(cluster, session_id)) == events
    half = len(events) // 2
    assert await watch(cluster.master.url, session_id, half) == (events[half:], 1000)
    assert await watch(cluster.master.url, session_id, len(events)) == ([], 1000)
    headers = {"accept": "text/event-stream", "last-event-id": str(len(events))}
    address = f"/api/council/sessions/{session_id}/events"
    assert (await cluster.client.get(address, headers=headers)).status_code == 204


async def test_a_number_beyond_the_head_gets_a_snapshot_and_then_the_next_event(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("stall", model="m3", after_tokens=3, stall_ms=600, has_format=False))
    session_id = (await cluster.open())["id"]
    async with asyncio.timeout(20):
        async for event in cluster.events(session_id):
            if event["type"] == "call.delta" and event["agent_id"] == "agent_3":
                break
    events, code = await watch(cluster.master.url, session_id, 1_000_000)
    first, *rest = events
    assert (first["type"], code) == ("snapshot", 1000)
    assert (first["session"]["id"], first["session"]["state"]) == (session_id, "opinions")
    _gap_free(rest, first["seq"] + 1)
    assert rest[-1]["type"] == "session.completed"
    so_far = first["partial"]["opinions"]["agent_3"]["answer"]
    session = await cluster.get(session_id)
    assert so_far
    assert so_far + text_of(rest, "opinions", "agent_3") == session["agents"][2]["opinion"]


async def test_closing_sockets_cancels_nothing(cluster: Rig) -> None:
    _slower(cluster)
    session_id = (await cluster.open())["id"]
    for _ in range(3):
        async with socket_to(cluster.master.url, session_id) as socket:
            await socket.recv()
        await _sse(cluster, session_id, limit=1)
    assert_full(await cluster.ended(session_id))
    assert not cluster.standin.calls(outcome="cancelled")


# -- what is told, and when -------------------------------------------------------------------------------


async def test_events_come_in_the_order_in_which_a_council_works(cluster: Rig) -> None:
    session_id = (await cluster.open())["id"]
    events, _ = await watch(cluster.master.url, session_id)
    session = await cluster.get(session_id)
    told = types(events)
    assert told[:2] == ["session.started", "stage.started"]
    assert told[-1] == "session.completed"
    assert events[-1]["result"] == "full"
    assert [one["stage"] for one in events if one["type"] == "stage.started"] == [
        "opinions",
        "review",
        "synthesis",
    ]
    assert told.count("ballot.accepted") == told.count("ranking.updated") == 3
    assert [one["reviewer"] for one in events if one["type"] == "ballot.accepted"] != []
    for stage in ("opinions", "review", "synthesis"):
        ours = [one for one in events if one.get("stage") == stage]
        assert (ours[0]["type"], ours[-1]["type"]) == ("stage.started", "stage.completed")
        assert set(ours[-1]["token_usage"]["by_model"]) <= {*SEATS, CHAIRMAN}
        agents = ["chairman"] if stage == "synthesis" else ["agent_1", "agent_2", "agent_3"]
        for agent_id in agents:
            calls = types([one for one in ours if one.get("agent_id") == agent_id])
            calls = [kind for kind in calls if kind != "call.queued"]
            assert calls[0] == "call.started"
            assert calls[-1] == "call.completed"
            assert set(calls[1:-1]) == {"call.delta"}
    numbers = {
        (one["type"], one.get("stage"), one.get("reviewer") or one.get("agent_id")): one["seq"]
        for one in events
    }
    for reviewer in ("agent_1", "agent_2", "agent_3"):
        voted = numbers["ballot.accepted", None, reviewer]
        assert numbers["call.completed", "review", reviewer] == voted - 1
        assert events[voted]["type"] == "ranking.updated"
        assert voted < numbers["stage.completed", "review", None]
    for seat in session["agents"]:
        assert text_of(events, "opinions", seat["agent_id"]) == seat["opinion"]
    assert text_of(events, "synthesis", "chairman") == session["synthesis"]["text"]
    for one in events:
        assert one["session_id"] == session_id
        assert one["at"].endswith("Z")
        if one["type"] == "call.started":
            assert (one["node"], bool(one["model"])) == ("pc2", True)
    last_ranking = [one for one in events if one["type"] == "ranking.updated"][-1]["ranking"]
    assert last_ranking == session["ranking"]


async def test_thinking_is_told_apart_and_is_no_part_of_the_answer(cluster: Rig) -> None:
    cluster.standin.set_model(model("m4", thinking=True))
    session_id = (await cluster.open(seats=["m4", "m1"]))["id"]
    events, _ = await watch(cluster.master.url, session_id)
    opinion = (await cluster.get(session_id))["agents"][0]["opinion"]
    thought = text_of(events, "opinions", "agent_1", "thinking")
    assert "weighs the question" in thought
    assert "weighs the question" not in opinion
    assert text_of(events, "opinions", "agent_1") == opinion
    seen = [one["channel"] for one in events if one["type"] == "call.delta" and one["agent_id"] == "agent_1"]
    assert seen[0] == "thinking"


async def test_a_call_that_is_cut_off_is_restarted_and_its_text_begins_anew(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("cut", model="m2", after_tokens=3, has_format=False))
    session_id = (await cluster.open())["id"]
    events, _ = await watch(cluster.master.url, session_id)
    session = await cluster.get(session_id)
    ours = [
        one
        for one in events
        if (one.get("stage"), one.get("agent_id")) == ("opinions", "agent_2") and one["type"] != "call.queued"
    ]
    told = [kind for kind in types(ours) if kind != "call.delta"]
    assert told == ["call.started", "call.restarted", "call.started", "call.completed"]
    restarted = next(one for one in ours if one["type"] == "call.restarted")
    assert (restarted["from_node"], restarted["to_node"], restarted["reason"]) == ("pc2", "pc2", "stream_cut")
    assert text_of(events, "opinions", "agent_2") == session["agents"][1]["opinion"]


async def test_a_retry_reopens_the_session_and_its_numbers_go_on(cluster: Rig) -> None:
    cluster.standin.set_model(model(CHAIRMAN, reply=[Reply(""), Reply("a late word")]))
    session_id = (await cluster.open())["id"]
    first, _ = await watch(cluster.master.url, session_id)
    told = types([one for one in first if one.get("agent_id") == "chairman"])
    assert [kind for kind in told if kind not in ("call.queued", "call.delta")] == [
        "call.started",
        "call.failed",
        "call.started",
        "call.completed",
    ]
    response = await cluster.client.post(f"/api/council/sessions/{session_id}/agents/chairman/retry")
    assert response.status_code == 202
    more, code = await watch(cluster.master.url, session_id, len(first))
    assert code == 1000
    _gap_free(first + more)
    assert (more[0]["type"], more[0]["run"], more[0]["agent_id"]) == ("session.reopened", 2, "chairman")
    assert types(more)[-1] == "session.completed"
    assert text_of(more, "synthesis", "chairman") == "a late word"


async def test_a_cancelled_session_says_so_last(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("endless", model="m2"))
    session_id = (await cluster.open())["id"]
    watching = asyncio.create_task(watch(cluster.master.url, session_id))
    await cluster.writing(session_id, "opinions")
    response = await cluster.client.post(f"/api/council/sessions/{session_id}/cancel")
    assert response.json()["state"] == "cancelled"
    events, code = await watching
    assert (events[-1]["type"], code) == ("session.cancelled", 1000)


# -- what is refused --------------------------------------------------------------------------------------


async def test_what_cannot_be_watched_is_refused_in_words(cluster: Rig) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    events, code = await watch(cluster.master.url, unknown)
    assert (events[0]["type"], events[0]["error"]["code"], code) == ("error", "not_found", 1008)
    address = f"/api/council/sessions/{unknown}/events"
    missing = await cluster.client.get(address, headers={"accept": "text/event-stream"})
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    session_id = (await cluster.open())["id"]
    address = f"/api/council/sessions/{session_id}/events"
    plain = await cluster.client.get(address)
    assert (plain.status_code, plain.json()["code"]) == (406, "not_acceptable")
    headers = {"accept": "text/event-stream", "last-event-id": "yesterday"}
    assert (await cluster.client.get(address, headers=headers)).status_code == 422
    with pytest.raises(InvalidStatus) as refused:
        async with socket_to(cluster.master.url, session_id, origin="https://elsewhere.example"):
            pass
    assert refused.value.response.status_code == 403
    own, _ = await watch(cluster.master.url, session_id)
    assert own
    await cluster.ended(session_id)


async def test_a_socket_too_slow_to_follow_is_closed_with_1013_and_delays_nobody(tmp_path: Path) -> None:
    piece = "word " * 10_000
    long = model("m1", token_ms=5, reply=Reply(tokens=(piece,) * 200))
    async with (
        StandInOllama([long], slots=2, context_length=131_072) as standin,
        processes.node(tmp_path / "node", name="pc2", ollama=standin.base_url) as node,
    ):
        master = await processes.start(
            "tests.service.master.impatient_master",
            *("--port", "0"),
            data_dir=tmp_path / "master",
            env={"COUNCIL_NODES": f"pc2={node.url}", "COUNCIL_HEARTBEAT_S": "0.2"},
        )
        try:
            async with processes.client(master) as client:
                body = {"question": "Say much.", "selected_agents": ["m1"]}
                opened = await client.post("/api/council/sessions", json=body)
                session_id = opened.json()["id"]
                url = httpx.URL(master.url)
                stuck = sockets.socket()
                stuck.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
                stuck.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(stuck, (url.host, url.port))
                async with socket_to(master.url, session_id, sock=stuck, max_queue=1) as slow:
                    async with asyncio.timeout(60):
                        events, code = await watch(master.url, session_id)
                    assert code == 1000
                    assert text_of(events, "opinions", "agent_1") == piece * 200
                    _gap_free(events)
                    async with asyncio.timeout(30):
                        while '"code": 1013' not in master.log.read_text():  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
                    seen = [event async for event in read(slow)]
                    assert slow.close_code == 1013
                    _gap_free(seen)
                    assert len(seen) < len(events)
                rest, code = await watch(master.url, session_id, seen[-1]["seq"])
                assert seen + rest == events
        finally:
            await master.stop()


# -- another master ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked: Linux and macOS")
async def test_after_a_restart_a_watcher_gets_a_snapshot_and_then_the_next_event(cluster: Rig) -> None:
    data_dir = cluster.folder / "another"
    nodes = {"pc2": cluster.nodes["pc2"].url}
    cluster.standin.add_faults(Fault("stall", model="m3", after_tokens=3, stall_ms=5000, has_format=False))
    async with nursery() as lives:
        life = await lives.start(data_dir, nodes)
        async with httpx.AsyncClient(base_url=life.url, trust_env=False) as client:
            body: dict[str, Any] = {"question": "?", "selected_agents": list(SEATS), "chairman": CHAIRMAN}
            session_id = (await client.post("/api/council/sessions", json=body)).json()["id"]
        seen: list[Event] = []
        async with asyncio.timeout(20), socket_to(life.url, session_id) as socket:
            while types(seen).count("call.completed") < 2:
                seen.append(json.loads(await socket.recv()))
        await lives.stop(signal.SIGKILL)

        life = await lives.start(data_dir, nodes)
        for after in (seen[-1]["seq"], 0):
            events, code = await watch(life.url, session_id, after)
            assert code == 1000
            first, *rest = events
            assert first["type"] == "snapshot"
            assert first["seq"] > seen[-1]["seq"]
            assert [one["opinion"] for one in first["session"]["agents"]][:2] != [None, None]
            _gap_free(rest, first["seq"] + 1)
            assert after == 0 or types(rest)[-1] == "session.completed"
        await lives.stop()

        life = await lives.start(data_dir, nodes)  # it has ended: replayed from what is stored
        events, code = await watch(life.url, session_id, rest[-1]["seq"] if rest else first["seq"])
        assert (types(events), code) == (["snapshot"], 1000)
        assert events[0]["session"]["state"] == "completed"
        assert events[0]["seq"] > first["seq"] + len(rest)
        await lives.stop()
