"""Clients that leave: a council goes on, a chat stops down to the engine, a cancelled session ends clean."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.service.master import rig
from tests.service.master.rig import CHAIRMAN, MODELS, SEATS, Rig, assert_full

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSIONS = "/api/council/sessions"
CHAT = "/v1/chat/completions"
STAGES = ("opinions", "review", "synthesis")


@pytest_asyncio.fixture(loop_scope="module")
async def slow(cluster: Rig) -> AsyncIterator[Rig]:
    """The cluster with models that take long enough to be left."""
    for name in MODELS:
        cluster.standin.set_model(rig.model(name, token_ms=40, answer_tokens=60))
    yield cluster
    # Whatever was left has let its slot go.
    await cluster.standin.until(lambda server: not any(server.counters.in_flight.values()))


def outcomes(cluster: Rig, model: str) -> list[str]:
    return [one.outcome for one in cluster.standin.calls(model=model, kind="chat") if one.messages]


async def test_hanging_up_while_waiting_cancels_nothing(cluster: Rig) -> None:
    cluster.standin.set_model(rig.model("m1", token_ms=40))
    body = {"question": "Which?", "selected_agents": ["m1", "m2"], "chairman": CHAIRMAN}
    asking = asyncio.create_task(cluster.client.post(f"{SESSIONS}?wait=true", json=body))
    await cluster.standin.until(lambda server: server.calls(model="m1", kind="chat"))
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    (listed,) = (await cluster.client.get(SESSIONS, params={"limit": 1})).json()["sessions"]
    assert_full(await cluster.ended(listed["id"]))
    assert "cancelled" not in {one.outcome for one in cluster.standin.log}


async def test_a_wait_that_is_too_short_gives_the_running_session_and_its_address(slow: Rig) -> None:
    body = {"question": "Which?", "selected_agents": ["m1", "m2"], "chairman": CHAIRMAN}
    response = await slow.client.post(f"{SESSIONS}?wait=true&wait_s=0.1", json=body)
    assert response.status_code == 202
    assert response.headers["location"] == f"{SESSIONS}/{response.json()['id']}"
    assert response.json()["state"] == "opinions"
    assert (await slow.client.post(f"{response.headers['location']}/cancel")).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_a_chat_cancels_its_call_in_the_engine(slow: Rig, stream: bool) -> None:
    body = {"model": "m1", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    await left_during_the_call(slow, body, "m1")
    assert outcomes(slow, "m1") == ["cancelled"]


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_a_chat_whose_request_was_long_cancels_it_as_well(slow: Rig, stream: bool) -> None:
    """A long body stops the server's reading for a moment, and a hang-up is read like anything else."""
    message = {"role": "user", "content": "hello", "ignored": "x" * 300_000}
    await left_during_the_call(slow, {"model": "m1", "messages": [message], "stream": stream}, "m1")
    assert outcomes(slow, "m1") == ["cancelled"]


async def test_leaving_a_streamed_chat_before_its_first_token_cancels_it_as_well(slow: Rig) -> None:
    slow.standin.set_model(rig.model("m1", first_token_ms=60_000))
    body = {"model": "m1", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    await left_during_the_call(slow, body, "m1")
    assert outcomes(slow, "m1") == ["cancelled"]


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_a_chat_with_the_council_cancels_the_council(slow: Rig, stream: bool) -> None:
    body = {"model": "council", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    await left_during_the_call(slow, body, None)
    (listed,) = (await slow.client.get(SESSIONS, params={"limit": 1})).json()["sessions"]
    session = await slow.ended(listed["id"])
    assert session["state"] == "cancelled"
    calls = [one for one in slow.standin.calls(kind="chat") if one.messages]
    assert {one.outcome for one in calls} == {"cancelled"}


async def left_during_the_call(cluster: Rig, body: dict[str, Any], model: str | None) -> None:
    asking = asyncio.create_task(cluster.client.post(CHAT, json=body))
    await cluster.standin.until(lambda server: any(server.counters.in_flight.values()))
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await cluster.standin.until(lambda server: server.calls(model=model, outcome="cancelled"))


@pytest.mark.parametrize("stage", STAGES)
async def test_a_cancelled_session_stops_its_calls_and_keeps_its_attempts(slow: Rig, stage: str) -> None:
    for name in MODELS:
        quick = stage != "opinions" and name != CHAIRMAN
        # Ballots are longer than these answers, and not all but written when the session is cancelled.
        slow.standin.set_model(rig.model(name, token_ms=40, answer_tokens=6 if quick else 60))
    opened = await slow.open()
    watching = asyncio.create_task(slow.all_events(opened["id"]))
    await slow.writing(opened["id"], stage)
    response = await slow.client.post(f"{SESSIONS}/{opened['id']}/cancel")
    assert response.status_code == 200
    assert response.json()["state"] == "cancelled"
    events = await watching
    assert events[-1]["type"] == "session.cancelled"
    session = await slow.get(opened["id"])
    assert session["state"] == "cancelled"
    assert session["synthesis"] is None
    answered = [one for one in session["agents"] if one["opinion"]]
    assert len(answered) == (0 if stage == "opinions" else 3)
    # Reported calls are counted as reported, those that were stopped by what was seen of them.
    await slow.standin.until(lambda server: server.calls(outcome="cancelled"))
    await slow.standin.until(lambda server: not any(server.counters.in_flight.values()))
    prompt, completion = rig.reported_tokens(slow.standin)
    stopped = [one for one in slow.standin.calls(kind="chat", outcome="cancelled") if one.messages]
    usage = session["token_usage"]
    assert usage["total_prompt_tokens"] == prompt
    assert (
        completion < usage["total_completion_tokens"] <= completion + sum(one.tokens_sent for one in stopped)
    )
    assert slow.standin.calls(kind="chat", outcome="running") == []
    again = await slow.client.post(f"{SESSIONS}/{opened['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


async def test_a_session_deleted_while_it_runs_is_gone_with_its_calls(slow: Rig) -> None:
    opened = await slow.open()
    watching = asyncio.create_task(slow.all_events(opened["id"]))
    await slow.writing(opened["id"], "opinions")
    assert (await slow.client.delete(f"{SESSIONS}/{opened['id']}")).status_code == 204
    assert (await watching)[-1]["type"] == "session.cancelled"
    for path in (f"{SESSIONS}/{opened['id']}", f"/api/conversations/{opened['conversation_id']}"):
        assert (await slow.client.get(path)).status_code == 404
    assert {outcome for name in SEATS for outcome in outcomes(slow, name)} == {"cancelled"}


async def test_ten_cancels_at_once_end_the_session_once(slow: Rig) -> None:
    opened = await slow.open()
    await slow.writing(opened["id"], "opinions")
    answers = await asyncio.gather(
        *(slow.client.post(f"{SESSIONS}/{opened['id']}/cancel") for _ in range(10))
    )
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert 200 in {answer.status_code for answer in answers}
    events = await slow.all_events(opened["id"])
    assert [event["type"] for event in events].count("session.cancelled") == 1


async def test_a_watcher_that_leaves_cancels_nothing(cluster: Rig) -> None:
    cluster.standin.set_model(rig.model("m1", token_ms=30))
    opened = await cluster.open()
    for _ in range(5):
        with contextlib.suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(0.05):
                async for _ in cluster.events(opened["id"]):
                    continue
    assert_full(await cluster.ended(opened["id"]))
