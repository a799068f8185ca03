"""The routes of sessions, conversations, models and health, and the shape of a whole session."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio

from tests import processes
from tests.service.master.accounts import rows
from tests.service.master.rig import CHAIRMAN, MODELS, SEATS, Rig, assert_full, model
from tests.service.master.sockets import types, watch
from tests.standin import Fault
from tests.standin.model import Reply, default_reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSIONS = "/api/council/sessions"
BODY: dict[str, Any] = {
    "question": "Which is better, a|b or *c*?",
    "selected_agents": ["m1", {"model": "m2", "persona": "sceptic"}, "m3"],
    "chairman": CHAIRMAN,
}
SHAPE: dict[str, Any] = {
    "id": str,
    "conversation_id": str,
    "run": int,
    "question": str,
    "state": str,
    "result": str,
    "missing_agents": list,
    "practice": bool,
    "cached": bool,
    "trimmed": list,
    "warnings": list,
    "error": type(None),
    "chairman": str,
    "agents": list,
    "ballots": list,
    "ranking": list,
    "agreement": float,
    "contested": bool,
    "synthesis": dict,
    "top_answer": str,
    "token_usage": dict,
    "latency_stats": dict,
    "created_at": str,
    "completed_at": str,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def held(shared_cluster: Rig) -> AsyncIterator[dict[str, Any]]:
    """A session that has ended well, for those who only look."""
    response = await shared_cluster.client.post(f"{SESSIONS}?wait=true", json=BODY)
    assert response.status_code == 201
    session: dict[str, Any] = response.json()
    yield session


# -- one session ------------------------------------------------------------------------------------------


async def test_a_session_has_the_shape_of_the_contract(held: dict[str, Any]) -> None:
    assert {name: type(value) for name, value in held.items()} == SHAPE
    assert_full(held)
    for number, agent in enumerate(held["agents"], 1):
        assert agent == {
            "agent_id": f"agent_{number}",
            "model": f"m{number}",
            "persona": "sceptic" if number == 2 else None,
            "node": "pc2",
            "state": "done",
            "opinion": agent["opinion"],
            "review_state": "done",
            "error": None,
        }
    for ballot in held["ballots"]:
        assert set(ballot) == {"reviewer", "rankings", "abstained", "reason"}
        for ranked in ballot["rankings"]:
            assert set(ranked) == {"agent_id", "score", "reasoning"}
    for entry in held["ranking"]:
        assert set(entry) == {"agent_id", "rank", "borda", "mean_score", "votes"}
        assert (0 <= entry["borda"] <= 1, entry["votes"]) == (True, 2)
    assert set(held["synthesis"]) == {"text", "model", "node", "kind"}
    assert (held["run"], held["cached"], held["practice"]) == (1, False, False)
    assert held["top_answer"] == held["ranking"][0]["agent_id"]
    moments = [datetime.fromisoformat(held[name]) for name in ("created_at", "completed_at")]
    assert moments[0] < moments[1]


async def test_a_session_is_told_at_once_and_fetched_where_location_says(cluster: Rig) -> None:
    response = await cluster.client.post(SESSIONS, json=BODY)
    opened = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"{SESSIONS}/{opened['id']}"
    assert (opened["state"], opened["result"], opened["completed_at"]) == ("opinions", None, None)
    assert [one["state"] for one in opened["agents"]] == ["waiting"] * 3
    assert [one["review_state"] for one in opened["agents"]] == ["waiting"] * 3
    await cluster.ended(opened["id"])
    assert_full((await cluster.client.get(response.headers["location"])).json())


async def test_waiting_ends_with_the_session_or_with_202_and_location(cluster: Rig) -> None:
    done = await cluster.client.post(f"{SESSIONS}?wait=true&wait_s=30", json=BODY)
    assert (done.status_code, done.json()["state"]) == (201, "completed")
    cluster.standin.add_faults(Fault("stall", model="m1", after_tokens=2, stall_ms=700))
    early = await cluster.client.post(f"{SESSIONS}?wait=true&wait_s=0.1", json=BODY)
    assert (early.status_code, early.json()["state"]) == (202, "opinions")
    assert early.headers["location"] == f"{SESSIONS}/{early.json()['id']}"
    assert_full(await cluster.ended(early.json()["id"]))
    for wait_s in ("601", "-1", "soon"):
        refused = await cluster.client.post(f"{SESSIONS}?wait=true&wait_s={wait_s}", json=BODY)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


async def test_hanging_up_while_waiting_cancels_nothing(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("stall", model="m1", after_tokens=2, stall_ms=500))
    headers = {"idempotency-key": "hanging up"}
    waiting = asyncio.create_task(cluster.client.post(f"{SESSIONS}?wait=true", json=BODY, headers=headers))
    await cluster.standin.until(lambda s: len(s.calls(kind="chat")) == 3, 20)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    session = (await cluster.client.post(SESSIONS, json=BODY, headers=headers)).json()
    assert_full(await cluster.ended(session["id"]))
    assert not cluster.standin.calls(outcome="cancelled")


async def test_twins_with_one_key_open_one_session(cluster: Rig) -> None:
    headers = {"idempotency-key": "twins"}
    answers = await asyncio.gather(
        *(cluster.client.post(SESSIONS, json=BODY, headers=headers) for _ in range(6))
    )
    assert {one.status_code for one in answers} == {201}
    assert len({one.json()["id"] for one in answers}) == 1
    other = await cluster.client.post(SESSIONS, json={**BODY, "question": "Another?"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "invalid_request")
    await cluster.ended(answers[0].json()["id"])
    later = await cluster.client.post(f"{SESSIONS}?wait=true", json=BODY, headers=headers)
    assert (later.status_code, later.json()["id"]) == (201, answers[0].json()["id"])


async def test_a_deleted_session_is_gone_also_while_it_runs(cluster: Rig) -> None:
    done = await cluster.council()
    cluster.standin.add_faults(Fault("endless", model="m1"))
    running = await cluster.open()
    await cluster.writing(running["id"], "opinions")
    for session in (done, running):
        address = f"{SESSIONS}/{session['id']}"
        assert (await cluster.client.delete(address)).status_code == 204
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/export")):
            gone = await cluster.client.request(method, address + path)
            assert (gone.status_code, gone.json()["code"]) == (404, "not_found"), (method, path)
        assert (
            await cluster.client.get(f"/api/conversations/{session['conversation_id']}")
        ).status_code == 404
    await cluster.standin.until(lambda s: all(one.outcome != "running" for one in s.log), 20)


async def test_a_session_is_exported_as_a_document_and_as_data(cluster: Rig, held: dict[str, Any]) -> None:
    address = f"{SESSIONS}/{held['id']}/export"
    document = await cluster.client.get(address)
    assert document.headers["content-type"] == "text/markdown; charset=utf-8"
    assert document.headers["content-disposition"] == f'attachment; filename="council-{held["id"]}.md"'
    assert held["synthesis"]["text"] in document.text
    assert all(one["opinion"] in document.text for one in held["agents"])
    data = await cluster.client.get(f"{address}?format=json")
    assert data.json() == held
    assert data.headers["content-disposition"].endswith('.json"')
    assert (await cluster.client.get(f"{address}?format=docx")).status_code == 422


# -- lists ------------------------------------------------------------------------------------------------


async def test_sessions_are_listed_searched_and_paged(cluster: Rig) -> None:
    words = ["apple 100%", "apple_pie", "banana"]
    asked = [(await cluster.council(seats=["m1"], question=f"listed {word}"))["id"] for word in words]
    newest = (await cluster.client.get(SESSIONS, params={"q": "listed"})).json()
    assert [one["id"] for one in newest["sessions"]] == asked[::-1]
    assert newest["next_cursor"] is None
    for q, found in (
        ("listed apple", asked[1::-1]),
        ("APPLE listed", asked[1::-1]),
        ("100%", [asked[0]]),
        ("e_p", [asked[1]]),
        ("cherry", []),
    ):
        response = await cluster.client.get(SESSIONS, params={"q": q})
        assert [one["id"] for one in response.json()["sessions"]] == found, q
    paged: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, Any] = {"q": "listed", "limit": 1, **({"cursor": cursor} if cursor else {})}
        page = (await cluster.client.get(SESSIONS, params=params)).json()
        paged += [one["id"] for one in page["sessions"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == asked[::-1]
    for bad in ({"limit": 0}, {"limit": 201}, {"cursor": "mine"}):
        assert (await cluster.client.get(SESSIONS, params=bad)).status_code == 422


async def test_a_follow_up_sends_the_earlier_question_and_answer(cluster: Rig) -> None:
    cluster.standin.set_model(model(CHAIRMAN, reply=Reply("The first conclusion is 42.")))
    first = await cluster.council(question="What was asked first?")
    cluster.standin.reset()
    second = await cluster.council(
        question="And what follows?", conversation_id=first["conversation_id"], chairman="deputy"
    )
    assert second["conversation_id"] == first["conversation_id"]
    for call in cluster.standin.calls(kind="chat"):
        said = "\n".join(str(message["content"]) for message in call.messages)
        assert "What was asked first?" in said
        assert "The first conclusion is 42." in said
        assert "And what follows?" in said
    shown = (await cluster.client.get(f"/api/conversations/{first['conversation_id']}")).json()
    assert [one["id"] for one in shown["sessions"]] == [first["id"], second["id"]]
    assert shown["title"] == "What was asked first?"
    listed = (await cluster.client.get("/api/conversations?limit=1")).json()
    assert (listed["conversations"][0]["id"], listed["conversations"][0]["sessions"]) == (shown["id"], 2)
    assert (await cluster.client.delete(f"/api/conversations/{shown['id']}")).status_code == 204
    for address in (
        f"/api/conversations/{shown['id']}",
        *(f"{SESSIONS}/{one['id']}" for one in (first, second)),
    ):
        assert (await cluster.client.get(address)).status_code == 404


async def test_a_conversation_with_a_running_session_takes_no_question_and_is_not_deleted(
    cluster: Rig,
) -> None:
    first = await cluster.council()
    conversation = first["conversation_id"]
    cluster.standin.add_faults(Fault("endless", model="m1"))
    running = await cluster.open(conversation_id=conversation)
    for refused in (
        await cluster.client.post(SESSIONS, json={**BODY, "conversation_id": conversation}),
        await cluster.client.delete(f"/api/conversations/{conversation}"),
        await cluster.client.post(f"{SESSIONS}/{running['id']}/agents/agent_2/retry"),
        await cluster.client.post(f"{SESSIONS}/{first['id']}/agents/agent_2/retry"),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert await cluster.get(first["id"]) == first  # the retry that was refused has moved nothing
    cancelled = await cluster.client.post(f"{SESSIONS}/{running['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    again = await cluster.client.post(f"{SESSIONS}/{running['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    unknown = {**BODY, "conversation_id": "00000000-0000-4000-8000-000000000000"}
    assert (await cluster.client.post(SESSIONS, json=unknown)).status_code == 404


# -- retries ----------------------------------------------------------------------------------------------


async def test_an_opinion_that_failed_is_retried_with_all_that_depends_on_it(cluster: Rig) -> None:
    cluster.standin.set_model(model("m3", reply=[Reply(""), Reply("late, but here")]))
    first = await cluster.council()
    assert (first["result"], first["missing_agents"]) == ("degraded", ["agent_3"])
    cluster.standin.reset()
    cluster.standin.set_model(
        model("m3", reply=lambda r: default_reply(model("m3"), r) if r.get("format") else "late, but here")
    )
    response = await cluster.client.post(f"{SESSIONS}/{first['id']}/agents/agent_3/retry")
    assert (response.status_code, response.json()["run"]) == (202, 2)
    session = await cluster.ended(first["id"])
    assert_full(session)
    assert session["agents"][2]["opinion"] == "late, but here"
    assert [one["opinion"] for one in session["agents"][:2]] == [
        one["opinion"] for one in first["agents"][:2]
    ]
    opinions = [one for one in cluster.standin.calls(kind="chat") if not one.format_present]
    assert sorted(one.model.split(":")[0] for one in opinions) == [CHAIRMAN, "m3"]


async def test_where_only_a_ballot_failed_only_that_is_asked_again(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("prose", model="m2", has_format=True, times=2))
    first = await cluster.council()
    assert (first["result"], first["agents"][1]["review_state"]) == ("degraded", "abstained")
    cluster.standin.reset()
    await cluster.client.post(f"{SESSIONS}/{first['id']}/agents/agent_2/retry")
    session = await cluster.ended(first["id"])
    assert_full(session)
    asked = [(one.model.split(":")[0], one.format_present) for one in cluster.standin.calls(kind="chat")]
    assert asked == [("m2", True), (CHAIRMAN, False)]


async def test_a_chairman_is_retried_alone_and_the_numbers_of_events_go_on(cluster: Rig) -> None:
    first = await cluster.council()
    before, _ = await watch(cluster.master.url, first["id"])
    cluster.standin.reset()
    await cluster.client.post(f"{SESSIONS}/{first['id']}/agents/chairman/retry")
    session = await cluster.ended(first["id"])
    assert_full(session)
    assert [one.model.split(":")[0] for one in cluster.standin.calls(kind="chat")] == [CHAIRMAN]
    after, _ = await watch(cluster.master.url, first["id"], before[-1]["seq"])
    assert (after[0]["type"], after[0]["seq"]) == ("session.reopened", before[-1]["seq"] + 1)
    assert types(after)[-1] == "session.completed"
    unknown = await cluster.client.post(f"{SESSIONS}/{first['id']}/agents/agent_9/retry")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")


# -- models, health, and what else there is ---------------------------------------------------------------


async def test_models_are_listed_with_their_nodes_and_the_five_are_recommended(cluster: Rig) -> None:
    found = (await cluster.client.get("/api/council/models")).json()["models"]
    assert {*MODELS} <= {one["name"].removesuffix(":latest") for one in found}
    assert all(one["nodes"] == ["pc2"] and one["slots"] >= 1 and one["size"] > 0 for one in found)
    recommended = (await cluster.client.get("/api/council/models/recommended")).json()["models"]
    names = [one["name"] for one in recommended]
    assert names == ["qwen2.5:0.5b", "llama3.2:1b", "gemma2:2b", "phi3.5:mini", "tinyllama"]
    assert all(one["role"] and one["suits"] and one["installed"] is False for one in recommended)


async def test_phi_is_found_under_both_its_spellings(cluster: Rig) -> None:
    cluster.standin.set_model(model("phi3.5"))
    async with asyncio.timeout(10):
        installed = False
        while not installed:
            listed = (await cluster.client.get("/api/council/models/recommended")).json()["models"]
            [installed] = [one["installed"] for one in listed if one["name"] == "phi3.5:mini"]
            await asyncio.sleep(0.05)
    for name in ("phi3.5", "phi3.5:mini"):
        assert_full(await cluster.council(seats=[name, "m1"], chairman=name))


async def test_health_tells_of_the_master_its_machine_its_engines_and_its_models(cluster: Rig) -> None:
    health = (await cluster.client.get("/health")).json()
    assert (health["status"], health["role"], health["protocol"]) == ("healthy", "master", 1)
    assert set(health) >= {"status", "role", "protocol", "name", "version", "uptime_s", "checks"}
    assert health["checks"]["database"] == "connected"
    began, written = time.monotonic(), set()
    for _ in range(20):
        await cluster.client.get("/health")
        written.add(rows(cluster.folder / "master", "SELECT at FROM pulse")[0]["at"])
    assert len(written) <= time.monotonic() - began + 2, "anybody may ask, and not each costs a write"
    system = (await cluster.client.get("/health/system")).json()
    assert system
    [node] = (await cluster.client.get("/health/ollama")).json()["nodes"]
    assert (node["node"], node["engines"][0]["status"]) == ("pc2", "connected")
    listed = (await cluster.client.get("/health/models")).json()["models"]
    assert all(
        {"name", "size", "engine", "resident", "slots", "capabilities", "nodes"} <= set(one) for one in listed
    )
    metrics = await cluster.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'council_tokens_total{kind="completion",model="m1"}' in metrics.text
    assert 'council_sessions_total{result="full"}' in metrics.text


async def test_the_api_describes_itself_with_examples(cluster: Rig) -> None:
    described = (await cluster.client.get("/openapi.json")).json()
    body = described["components"]["schemas"]["CreateSession"]
    assert body["examples"][0]["question"]
    example = await cluster.client.post(
        SESSIONS, json={**body["examples"][0], "selected_agents": ["m1"], "chairman": "m1"}
    )
    assert example.status_code == 201
    await cluster.ended(example.json()["id"])
    for path in (
        SESSIONS,
        f"{SESSIONS}/{{session_id}}",
        "/api/conversations",
        "/api/cluster/workers",
        "/health",
    ):
        assert path in described["paths"], path
    assert (await cluster.client.get("/docs")).status_code == 404  # its scripts are on another host


async def test_the_page_is_served_under_a_strict_policy(cluster: Rig) -> None:
    page = await cluster.client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy or "default-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    answer = await cluster.client.get(f"{SESSIONS}?limit=1")
    assert "content-security-policy" in answer.headers


async def test_other_origins_may_call_where_a_setting_names_them(cluster: Rig) -> None:
    theirs = "https://notes.example"
    asked = {
        "origin": theirs,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    closed = await cluster.client.options(SESSIONS, headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    refused = await cluster.client.post(SESSIONS, json=BODY, headers={"origin": theirs})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    async with (
        processes.master(cluster.folder / "open", env={"COUNCIL_CORS_ORIGINS": theirs}) as master,
        processes.client(master) as client,
    ):
        preflight = await client.options(SESSIONS, headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, theirs)
        listed = await client.get(SESSIONS, headers={"origin": theirs})
        assert listed.headers["access-control-allow-origin"] == theirs
        posted = await client.post(SESSIONS, json=BODY, headers={"origin": theirs})
        assert (posted.status_code, posted.json()["code"]) == (409, "model_unavailable")
        assert (
            await client.post(SESSIONS, json=BODY, headers={"origin": "https://x.example"})
        ).status_code == 403


async def test_a_long_queue_of_sessions_is_a_503_that_says_when_to_come_back(cluster: Rig) -> None:
    nodes = {name: program.url for name, program in cluster.nodes.items()}
    cluster.standin.add_faults(Fault("endless", model="m1"))
    async with (
        processes.master(
            cluster.folder / "narrow", nodes=nodes, env={"COUNCIL_MAX_ACTIVE_SESSIONS": "1"}
        ) as master,
        processes.client(master) as client,
    ):
        opened = await client.post(SESSIONS, json={**BODY, "selected_agents": list(SEATS)})
        assert opened.status_code == 201, opened.text
        full = await client.post(SESSIONS, json=BODY)
        assert (full.status_code, full.json()["code"]) == (503, "queue_full")
        assert int(full.headers["retry-after"]) > 0
        await client.post(f"{SESSIONS}/{opened.json()['id']}/cancel")
        assert json.loads((await client.get(SESSIONS)).text)["sessions"][0]["state"] == "cancelled"
