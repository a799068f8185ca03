"""Conversations are kept first, found again, and outlive what they came from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from tests.service.master.rig import MODELS, SEATS, Rig, model

pytestmark = pytest.mark.asyncio(loop_scope="module")
ARCHIVE = "/api/conversation/archive/background"
TALK = [
    {"role": "user", "content": "Which ferry goes to Ærøskøbing?"},
    {"role": "assistant", "content": "The ferry from Svendborg. It leaves at 10:15."},
]


async def archive(cluster: Rig, expected: int = 202, **body: Any) -> dict[str, Any]:
    response = await cluster.client.post(ARCHIVE, json=body or None)
    assert response.status_code == expected, response.text
    found: dict[str, Any] = response.json()
    return found


async def listed(cluster: Rig, **params: Any) -> list[dict[str, Any]]:
    response = await cluster.client.get("/api/structured_archives", params=params)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["archives"]
    return found


async def show(cluster: Rig, archive_id: str, **params: Any) -> dict[str, Any]:
    response = await cluster.client.get(f"/api/structured_archive/{archive_id}", params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_conversation_held_elsewhere_is_kept_with_its_hash_and_found_in_any_alphabet(
    cluster: Rig,
) -> None:
    for name in MODELS:
        cluster.standin.set_model(model(name, reply="A ferry from Svendborg to Ærøskøbing leaves at 10:15."))
    kept = await archive(cluster, messages=TALK)
    assert kept["created"]
    assert kept["quick_summary"] == "A ferry from Svendborg to Ærøskøbing leaves at 10:15."
    assert kept["quick_summary_by"]
    whole = await show(cluster, kept["archive_id"], messages=True)
    assert whole["messages"] == TALK
    assert len(whole["raw_sha256"]) == 64
    for q in ("ærøskøbing", "FERRY svendborg", "10:15"):
        assert [one["id"] for one in await listed(cluster, q=q)] == [kept["archive_id"]]
    assert await listed(cluster, q="ferry airport") == []
    assert await listed(cluster, q="100%") == []


async def test_the_same_words_are_the_same_archive(cluster: Rig) -> None:
    first = await archive(cluster, messages=[{"role": "user", "content": "Twice."}], title="One")
    again = await archive(cluster, messages=[{"role": "user", "content": "Twice."}], title="Two")
    assert again["archive_id"] == first["archive_id"]
    assert (first["created"], again["created"]) == (True, False)


async def test_no_model_in_time_means_the_first_sentences(cluster: Rig) -> None:
    for name in MODELS:
        cluster.standin.set_model(model(name, reply="Something else entirely, from nowhere."))
    kept = await archive(
        cluster,
        messages=[
            {"role": "user", "content": "Is tea older than coffee?"},
            {"role": "assistant", "content": "Yes. By far."},
        ],
    )
    assert kept["quick_summary"] == "Is tea older than coffee? → Yes. By far."
    assert kept["quick_summary_by"] is None


async def test_a_council_is_archived_by_question_and_answer_and_outlives_its_session(cluster: Rig) -> None:
    session = await cluster.council()
    kept = await archive(cluster, session_id=session["id"])
    whole = await show(cluster, kept["archive_id"], messages=True)
    assert [one["role"] for one in whole["messages"]] == ["user", "assistant"]
    assert whole["messages"][1]["content"] == session["synthesis"]["text"]
    assert whole["notes"][0]["session_id"] == session["id"]
    assert (await cluster.client.delete(f"/api/council/sessions/{session['id']}")).status_code == 204
    assert (await show(cluster, kept["archive_id"]))["origin_deleted_at"] is not None


async def test_a_conversation_may_be_deleted_with_its_archives(cluster: Rig) -> None:
    session = await cluster.council(question="What is a conversation worth?")
    talk = session["conversation_id"]
    kept = await archive(cluster, conversation_id=talk)
    latest = await archive(cluster)
    assert latest["archive_id"] == kept["archive_id"]
    gone = await cluster.client.delete(f"/api/conversations/{talk}", params={"with_archives": True})
    assert gone.status_code == 204
    assert (await cluster.client.get(f"/api/structured_archive/{kept['archive_id']}")).status_code == 404


async def test_what_cannot_be_archived_is_told(cluster: Rig) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    await archive(cluster, 404, session_id=unknown)
    await archive(cluster, 404, conversation_id=unknown)
    await archive(cluster, 422, session_id=unknown, conversation_id=unknown)
    await archive(cluster, 422, messages=[])
    await archive(cluster, 422, messages=[{"role": "user", "content": "  "}])
    await archive(cluster, 422, messages=[{"role": "wizard", "content": "Hello"}])
    for name in SEATS:
        cluster.standin.set_model(model(name, duration_ms=60_000))
    session = await cluster.open()
    refused = await cluster.client.post(ARCHIVE, json={"session_id": session["id"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    await cluster.client.post(f"/api/council/sessions/{session['id']}/cancel")
    await archive(cluster, 409, session_id=session["id"])


async def test_an_archive_is_exported_and_deleted_for_good(cluster: Rig) -> None:
    talk = [{"role": "user", "content": "# Not a heading <b>"}, {"role": "assistant", "content": "Indeed."}]
    kept = await archive(cluster, messages=talk)
    address = f"/api/structured_archive/{kept['archive_id']}"
    text = (await cluster.client.get(f"{address}/export")).text
    assert text.startswith("---\narchive: ")
    assert "> # Not a heading <b>" in text
    assert "\n# \\# Not a heading \\<b\\>\n" in text
    exported = await cluster.client.get(f"{address}/export", params={"format": "json"})
    assert exported.json()["messages"] == talk
    assert (await cluster.client.get(f"{address}/export", params={"format": "pdf"})).status_code == 422
    assert (await cluster.client.delete(address)).status_code == 204
    assert (await cluster.client.get(address)).status_code == 404
    assert (await cluster.client.delete(address)).status_code == 404


async def test_archives_that_speak_of_the_same_are_told(cluster: Rig) -> None:
    about = "The zeppelin hangar at Friedrichshafen burnt down {}."
    for when in ("in winter", "during the storm"):
        await archive(cluster, messages=[{"role": "user", "content": about.format(when)}])
    newest, older = (await listed(cluster, q="zeppelin"))[:2]
    related = (await show(cluster, newest["id"]))["related"]
    assert related[0]["id"] == older["id"]
    assert "zeppelin" in related[0]["shared_terms"]


async def test_pages_and_statistics_count_every_archive_once(cluster: Rig) -> None:
    total = (await cluster.client.get("/api/structured_archives/statistics")).json()["total"]
    found: list[str] = []
    cursor = None
    while True:
        page = (
            await cluster.client.get(
                "/api/structured_archives", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
            )
        ).json()
        found += [one["id"] for one in page["archives"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(found) == len(set(found)) == total
    assert (
        await cluster.client.get("/api/structured_archives", params={"cursor": "made up"})
    ).status_code == 422


async def send(cluster: Rig, body: bytes, **params: Any) -> dict[str, Any]:
    response = await cluster.client.post("/api/conversation/import", content=body, params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_file_is_imported_once_and_its_broken_records_are_told(cluster: Rig) -> None:
    talks = [
        {"title": f"Import {n}", "messages": [{"role": "user", "content": f"Imported question {n}"}]}
        for n in range(3)
    ]
    body = b"\n".join([*(json.dumps(one).encode() for one in talks), b"{broken", b'{"x": 1}'])
    tried = await send(cluster, body, dry_run=True)
    assert (tried["imported"], tried["dry_run"]) == (3, True)
    assert await listed(cluster, q="imported question") == []
    first = await send(cluster, body)
    assert (first["found"], first["imported"], first["known"], first["skipped"]) == (5, 3, 0, 2)
    assert [one["line"] for one in first["problems"]] == [4, 5]
    again = await send(cluster, body)
    assert (again["imported"], again["known"]) == (0, 3)
    found = await listed(cluster, q="imported question", source="jsonl")
    assert sorted(one["title"] for one in found) == ["Import 0", "Import 1", "Import 2"]


async def test_what_was_exported_is_the_same_archive_when_it_is_imported(cluster: Rig) -> None:
    kept = await archive(cluster, messages=TALK)
    address = f"/api/structured_archive/{kept['archive_id']}"
    exported = (await cluster.client.get(f"{address}/export", params={"format": "json"})).content
    assert (await send(cluster, exported))["known"] == 1
    assert (await cluster.client.delete(address)).status_code == 204
    assert (await send(cluster, exported))["imported"] == 1


async def test_a_file_far_beyond_the_limit_of_other_bodies_is_imported(cluster: Rig) -> None:
    talk = {"messages": [{"role": "user", "content": "A long tale. " * 200_000}]}
    body = json.dumps([talk]).encode()
    assert len(body) > 2 * 1024 * 1024
    assert (await send(cluster, body))["imported"] == 1
    refused = await cluster.client.post(ARCHIVE, content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 413


@pytest.mark.long
async def test_two_thousand_conversations_are_imported_in_little_memory(cluster: Rig) -> None:
    """50 MB: held whole, they would be several times that."""

    async def lines() -> AsyncIterator[bytes]:
        for number in range(2000):
            said = f"Talk {number} about harbour-{number % 40}-. " + f"The ferry leaves at {number}. " * 850
            yield json.dumps({"messages": [{"role": "user", "content": said}]}).encode() + b"\n"

    master = psutil.Process(cluster.master.pid)
    before = most = master.memory_info().rss
    sending = asyncio.create_task(
        cluster.client.post("/api/conversation/import", content=lines(), timeout=600.0)
    )
    while not sending.done():
        most = max(most, master.memory_info().rss)
        assert (await cluster.client.get("/health", timeout=10.0)).status_code == 200
        await asyncio.sleep(0.1)
    assert (await sending).json()["imported"] == 2000
    assert most - before < 60 * 1024 * 1024
    assert len(await listed(cluster, q="harbour-39-", limit=200)) == 50
