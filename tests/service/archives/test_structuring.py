"""From a kept conversation to its structured archive: all programs are real, the answers are scripted."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from master.knowledge.sections import NAMES
from tests import processes
from tests.service.master import rig
from tests.service.master.rig import Rig, model
from tests.standin.journal import CallRecord

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "m4:latest"
# The gate opens at once, whatever else this machine does; a job that fails is not tried for long.
OPEN = {
    "BG_IDLE_THRESHOLD": "0",
    "BG_MAX_CPU": "1",
    "BG_MAX_MEMORY": "1",
    "BG_ON_BATTERY": "true",
    "BG_MAX_ATTEMPTS": "2",
    "BG_FIRST_PAUSE": "0.05",
    "COUNCIL_QUICK_SUMMARY_TIMEOUT_S": "1",
    "OLLAMA_BACKGROUND_MODEL": MODEL,
}
ARCHIVE = "/api/conversation/archive/background"
Answer = Callable[[dict[str, Any]], str]
ODD = "I would rather not."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig.running(tmp_path_factory.mktemp("structuring"), env=OPEN) as found:
        yield found


def talk(number: int, parts: int = 1) -> list[dict[str, str]]:
    """A conversation of its own for each number; each part fills a chunk."""
    filling = " ".join(["It went on and on."] * 290) if parts > 1 else ""
    return [
        {
            "role": "user" if part % 2 else "assistant",
            "content": f"Captain Brandt of ship {number} bought {part} anchors in port {part}. {filling}",
        }
        for part in range(1, parts + 1)
    ]


def chunk_of(request: dict[str, Any]) -> list[str]:
    """The numbers of the parts that a request shows; none for one that is not about a chunk."""
    text = request["messages"][-1]["content"]
    if "archive this conversation" not in text:
        return []
    return re.findall(r"bought (\d+) anchors", text)


def diligent(request: dict[str, Any]) -> str:
    """What a good model would answer."""
    parts = chunk_of(request)
    if not parts:
        return "Captain Brandt bought anchors."
    return json.dumps(
        {
            "summary": f"Captain Brandt bought anchors in port {parts[0]}.",
            **{name: [] for name in NAMES},
            "key_facts": [f"{part} anchors were bought in port {part}" for part in parts],
            "people": ["Brandt: captain", "Elvis Presley"],
        }
    )


def script(cluster: Rig, answer: Answer, **changes: Any) -> None:
    cluster.standin.set_model(model("m4", reply=answer, **changes))


async def archive(cluster: Rig, messages: list[dict[str, str]]) -> str:
    response = await cluster.client.post(ARCHIVE, json={"messages": messages})
    assert response.status_code == 202, response.text
    assert response.json()["job_id"]
    return str(response.json()["archive_id"])


async def until(
    cluster: Rig, archive_id: str, wanted: Callable[[dict[str, Any]], object], within_s: float = 30.0
) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    try:
        async with asyncio.timeout(within_s):
            while True:
                response = await cluster.client.get(f"/api/structured_archive/{archive_id}")
                shown = response.json()
                if wanted(shown):
                    return shown
                await asyncio.sleep(0.05)
    except TimeoutError:
        jobs = (await cluster.client.get("/api/background/status")).json()
        raise AssertionError(f"not reached: {shown} {jobs}") from None


async def job_of(cluster: Rig, archive_id: str) -> dict[str, Any]:
    shown = (await cluster.client.get(f"/api/structured_archive/{archive_id}")).json()
    job: dict[str, Any] = (await cluster.client.get(f"/api/background/task/{shown['job_id']}")).json()
    return job


def calls_about(cluster: Rig, number: int) -> list[CallRecord]:
    """The calls about one conversation that reached the engine, in order."""
    return [
        one
        for one in cluster.standin.calls(model=MODEL)
        if one.messages and f"of ship {number} " in str(one.messages[-1]["content"])
    ]


def asked(cluster: Rig, number: int) -> list[list[str]]:
    """The chunks of one conversation that the engine was asked about, in order."""
    shown = [chunk_of({"messages": one.messages}) for one in calls_about(cluster, number)]
    return [parts for parts in shown if parts]


def writing(cluster: Rig, number: int) -> bool:
    """Whether the engine works on one conversation."""
    return any(one.outcome == "running" for one in calls_about(cluster, number))


async def test_an_archive_is_structured_when_nobody_needs_the_cluster(cluster: Rig) -> None:
    script(cluster, diligent)
    archive_id = await archive(cluster, talk(1))
    shown = await until(cluster, archive_id, lambda one: one["status"] == "structured")
    assert [one["text"] for one in shown["structured"]["key_facts"]] == ["1 anchors were bought in port 1"]
    assert [one["text"] for one in shown["structured"]["people"]] == ["Brandt: captain"]
    assert (shown["model"], shown["practice"], shown["dropped"]) == (MODEL, False, 1)
    assert shown["token_usage"]["total_tokens"] > 0
    assert "## Key facts\n\n- 1 anchors were bought in port 1 [1]" in shown["markdown"]
    assert f'models: ["{MODEL}"]' in shown["markdown"]
    job = await job_of(cluster, archive_id)
    assert (job["type"], job["priority"], job["state"]) == ("summarise", 10, "done")
    assert (job["progress"]["done"], job["progress"]["total"]) == (2, 2)
    status = (await cluster.client.get("/api/background/status")).json()
    assert status["by_type"]["done"]["summarise"] >= 1
    assert status["today"]["total_tokens"] >= shown["token_usage"]["total_tokens"]
    found = await cluster.client.get("/api/structured_archives", params={"status": "structured"})
    assert archive_id in [one["id"] for one in found.json()["archives"]]


async def test_an_answer_that_is_no_json_is_asked_for_as_marked_text(cluster: Rig) -> None:
    def small(request: dict[str, Any]) -> str:
        if request.get("format"):
            return '{"type": "object", "properties": {"summary": {"type": "string"}}}'
        return "SUMMARY: Captain Brandt bought an anchor.\nPEOPLE:\n- Brandt: captain\nDATES:\nnone"

    script(cluster, small)
    archive_id = await archive(cluster, talk(2))
    shown = await until(cluster, archive_id, lambda one: one["status"] == "structured")
    assert [one["text"] for one in shown["structured"]["people"]] == ["Brandt: captain"]
    assert len(asked(cluster, 2)) == 2


async def test_what_a_model_cannot_do_is_a_failed_archive_that_can_be_tried_again(cluster: Rig) -> None:
    script(cluster, lambda request: ODD)
    archive_id = await archive(cluster, talk(3))
    shown = await until(cluster, archive_id, lambda one: one["status"] == "failed")
    assert shown["error"]["code"] == "invalid_output"
    assert (shown["watermark"], shown["structured"]) == (0, None)
    assert "quick summary" in shown["markdown"]
    statistics = (await cluster.client.get("/api/structured_archives/statistics")).json()
    assert statistics["by_status"]["failed"] == 1
    script(cluster, diligent)
    assert await archive(cluster, talk(3)) == archive_id
    shown = await until(cluster, archive_id, lambda one: one["status"] == "structured")
    assert shown["error"] is None


async def test_an_archive_is_made_anew_by_the_model_of_today_and_shows_the_old_one_until_then(
    cluster: Rig,
) -> None:
    script(cluster, lambda request: json.dumps({"summary": "", "key_facts": ["Captain Brandt of ship 6"]}))
    archive_id = await archive(cluster, talk(6))
    address = f"/api/structured_archive/{archive_id}"
    first = await until(cluster, archive_id, lambda one: one["status"] == "structured")
    script(cluster, diligent, duration_ms=600)
    again = await cluster.client.post(f"{address}/retry")
    assert again.status_code == 202
    assert again.json()["status"] in ("queued", "running")
    assert again.json()["job_id"] != first["job_id"]
    pending = await until(cluster, archive_id, lambda one: one["status"] == "running")
    assert pending["structured"] == first["structured"]
    assert (await cluster.client.post(f"{address}/retry")).status_code == 409
    shown = await until(cluster, archive_id, lambda one: one["status"] == "structured")
    assert [one["text"] for one in shown["structured"]["people"]] == ["Brandt: captain"]
    unknown = address.replace(archive_id, "00000000-0000-4000-8000-000000000000")
    assert (await cluster.client.post(f"{unknown}/retry")).status_code == 404


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets limits of a running process")
async def test_a_full_disk_marks_nothing_as_read_and_the_job_goes_on_when_there_is_room(cluster: Rig) -> None:
    import resource

    script(cluster, diligent, duration_ms=400)
    archive_id = await archive(cluster, talk(7, parts=3))
    await until(cluster, archive_id, lambda one: one["watermark"] == 1)
    await cluster.standin.until(lambda one: ["2"] in asked(cluster, 7), 20.0)

    # From now on no file of the master can grow: what a full disk does, for this process only.
    resource.prlimit(cluster.master.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    refused = await cluster.client.post(ARCHIVE, json={"messages": talk(8)})
    assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
    await cluster.standin.until(lambda one: not writing(cluster, 7), 10.0)
    shown = (await cluster.client.get(f"/api/structured_archive/{archive_id}")).json()
    assert (shown["watermark"], shown["structured"]) == (1, None)
    assert shown["status"] in ("running", "queued")

    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(cluster.master.pid, resource.RLIMIT_FSIZE, unlimited)
    shown = await until(cluster, archive_id, lambda one: one["status"] == "structured")
    assert [one["message"] for one in shown["structured"]["key_facts"]] == [1, 2, 3]
    assert asked(cluster, 7).count(["1"]) == 1
    found = await cluster.client.get("/api/structured_archives", params={"q": "ship 8"})
    assert found.json()["archives"] == []
    assert await archive(cluster, talk(8))


async def test_a_model_that_is_too_slow_leaves_the_first_sentences_and_stops_writing(cluster: Rig) -> None:
    script(cluster, lambda request: "word " * 4000, token_ms=100)
    async with asyncio.timeout(8.0):  # of which the setting allows one second to the model
        archive_id = await archive(cluster, talk(10))
    shown = (await cluster.client.get(f"/api/structured_archive/{archive_id}")).json()
    assert shown["quick_summary"].startswith("Captain Brandt of ship 10 bought")
    assert shown["quick_summary_by"] is None
    quick, *_ = calls_about(cluster, 10)
    assert quick.outcome == "cancelled"
    assert (await cluster.client.delete(f"/api/structured_archive/{archive_id}")).status_code == 204


async def test_an_engine_that_is_gone_delays_what_is_made_of_a_conversation_and_not_its_keeping(
    cluster: Rig,
) -> None:
    script(cluster, diligent)
    await cluster.standin.stop_accepting()
    cluster.standin.drop_all_connections()
    try:
        archive_id = await archive(cluster, talk(11))
        shown = (await cluster.client.get(f"/api/structured_archive/{archive_id}")).json()
        assert (shown["quick_summary_by"], shown["structured"]) == (None, None)
    finally:
        await cluster.standin.resume_accepting()
    await until(cluster, archive_id, lambda one: one["status"] == "structured")


async def test_deleting_an_archive_stops_its_job_down_to_the_engine(cluster: Rig) -> None:
    script(cluster, lambda request: ODD if not chunk_of(request) else "word " * 400, token_ms=100)
    archive_id = await archive(cluster, talk(4))
    await cluster.standin.until(lambda one: writing(cluster, 4), 20.0)
    job = await job_of(cluster, archive_id)
    assert (await until(cluster, archive_id, lambda one: one["status"] == "running"))["watermark"] == 0
    assert (await cluster.client.delete(f"/api/structured_archive/{archive_id}")).status_code == 204
    await cluster.standin.until(lambda one: not writing(cluster, 4), 10.0)
    state = (await cluster.client.get(f"/api/background/task/{job['id']}")).json()["state"]
    assert state == "cancelled"


async def test_a_master_killed_between_chunks_reads_no_finished_chunk_again(tmp_path: Path) -> None:
    """The engine writes the second of three chunks for ever when the master dies."""
    async with rig.running(tmp_path, env=OPEN) as cluster:
        alive = {"slow": True}

        def answer(request: dict[str, Any]) -> str:
            return "word " * 4000 if alive["slow"] and chunk_of(request) == ["2"] else diligent(request)

        script(cluster, answer, token_ms=3)
        archive_id = await archive(cluster, talk(5, parts=3))
        await until(cluster, archive_id, lambda one: one["watermark"] == 1)
        await cluster.standin.until(lambda one: ["2"] in asked(cluster, 5), 20.0)
        port = cluster.master.url.rsplit(":", 1)[1]
        cluster.master.kill()
        await cluster.master.wait()
        alive["slow"] = False
        nodes = {name: program.url for name, program in cluster.nodes.items()}
        again = await processes.start_master(
            tmp_path / "master", "--port", port, nodes=nodes, env={**rig.QUICK, **OPEN}
        )
        try:
            shown = await until(cluster, archive_id, lambda one: one["status"] == "structured")
        finally:
            await again.stop()
    assert asked(cluster, 5) == [["1"], ["2"], ["2"], ["3"]]
    assert [one["message"] for one in shown["structured"]["key_facts"]] == [1, 2, 3]
    assert shown["watermark"] == shown["chunks_total"] == 3
