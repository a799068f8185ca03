"""Background jobs as people meet them: the API and the command, before a real master, node and engine."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests import processes
from tests.haste import soon
from tests.processes import Program
from tests.service.background.workshop import ENDED, TYPES
from tests.service.cli.command import Council, Outcome
from tests.service.master.rig import model
from tests.standin import StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN = {
    "BG_IDLE_THRESHOLD": "0",
    "BG_LONG_IDLE_THRESHOLD": "0",
    "BG_MAX_CPU": "1",
    "BG_MAX_MEMORY": "1",
    "BG_FIRST_PAUSE": "0.1",
    "COUNCIL_JOB_TYPES": TYPES,
    "OLLAMA_BACKGROUND_MODEL": "bg",
}


@dataclass(slots=True)
class Place:
    folder: Path
    standin: StandInOllama
    master: Program
    client: httpx.AsyncClient

    async def submit(
        self, type_name: str, given: Mapping[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        body = {"type": type_name, "input": dict(given or {}), **fields}
        response = await self.client.post("/api/background/jobs", json=body)
        assert response.status_code in (200, 201), response.text
        job: dict[str, Any] = response.json()
        return job

    async def get(self, path: str, **params: Any) -> Any:
        response = await self.client.get(f"/api/background/{path}", params=params)
        assert response.status_code == 200, response.text
        return response.json()

    async def reaches(self, job_id: str, *states: str, within_s: float = 20.0) -> dict[str, Any]:
        async with asyncio.timeout(within_s):
            while True:
                job: dict[str, Any] = await self.get(f"task/{job_id}")
                if job["state"] in (states or ENDED):
                    return job
                await asyncio.sleep(0.05)

    async def council(self, *arguments: str) -> Outcome:
        command = Council(self.folder / "home")
        return await asyncio.to_thread(command.run, "jobs", *arguments, COUNCIL_URL=self.master.url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "home").mkdir()
    async with AsyncExitStack() as stack:
        standin = await stack.enter_async_context(StandInOllama([model("bg")], slots=2))
        node = await stack.enter_async_context(
            processes.node(folder / "node", name="pc2", ollama=standin.base_url)
        )
        master = await stack.enter_async_context(
            processes.master(folder / "master", nodes={"pc2": node.url}, env=OPEN)
        )
        client = await stack.enter_async_context(processes.client(master))
        yield Place(folder, standin, master, client)
        log = master.log.read_text()
        assert "Traceback" not in log, log[-3000:]


async def test_a_job_asks_the_background_model_and_tells_what_it_cost(place: Place) -> None:
    job = await place.submit("asking", {"calls": 2}, custom_id="mine")
    job = await place.reaches(job["id"])
    assert (job["state"], job["custom_id"], job["progress"]["done"]) == ("done", "mine", 2)
    calls = [one for one in place.standin.log if job["id"] in str(one.messages)]
    assert len(calls) == 2
    assert job["usage"]["calls"] == 2
    assert job["usage"]["completion_tokens"] == sum(one.eval_count or 0 for one in calls)
    assert job["usage"]["total_ms"] > 0


async def test_cancelling_a_job_ends_its_model_call_in_the_engine_within_a_second(place: Place) -> None:
    place.standin.set_model(model("bg", token_ms=50, reply="word " * 2000))

    async def cancel_s() -> float:
        job = await place.submit("asking")
        await place.standin.until(lambda one: any(call.outcome == "running" for call in one.log))
        began = time.monotonic()
        response = await place.client.post(f"/api/background/jobs/{job['id']}/cancel")
        assert response.json()["state"] == "cancelled"
        await place.standin.until(lambda one: all(call.outcome != "running" for call in one.log))
        took_s = time.monotonic() - began
        again = await place.client.post(f"/api/background/jobs/{job['id']}/cancel")
        assert again.status_code == 409
        return took_s

    try:
        await soon(1.0, cancel_s)
    finally:
        place.standin.set_model(model("bg"))


async def test_a_batch_gives_results_in_order_each_under_its_own_id(place: Place, tmp_path: Path) -> None:
    poison = {"folder": str(tmp_path), "code": "context_overflow", "times": 9}
    items = [
        {"custom_id": "good", "input": {"folder": str(tmp_path), "times": 0}},
        {"custom_id": "bad", "input": poison},
        {"custom_id": "also good", "input": {"folder": str(tmp_path), "times": 0}},
    ]
    response = await place.client.post("/api/background/batch", json={"type": "failing", "items": items})
    assert response.status_code == 201, response.text
    batch = response.json()
    async with asyncio.timeout(20):
        while not batch["ended"]:
            await asyncio.sleep(0.05)
            batch = await place.get(f"batch/{batch['id']}")
    assert [one["custom_id"] for one in batch["items"]] == ["good", "bad", "also good"]
    assert [one["state"] for one in batch["items"]] == ["done", "dead", "done"]
    assert batch["items"][1]["cause"]["code"] == "context_overflow"
    assert [one["result"] for one in batch["items"]] == [{"second": 1}, None, {"second": 1}]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("jobs", {"type": "unknown"}, 422, id="unknown type"),
        pytest.param("jobs", {"type": "nothing", "input": {"number": "x"}}, 422, id="wrong input"),
        pytest.param("jobs", {"type": "nothing", "priority": -1}, 422, id="wrong priority"),
        pytest.param("batch", {"type": "nothing", "items": []}, 422, id="empty batch"),
        pytest.param(
            "batch",
            {"type": "nothing", "items": [{"custom_id": "a"}, {"custom_id": "a"}]},
            422,
            id="one id twice",
        ),
        pytest.param(
            "schedules", {"name": "n", "type": "nothing", "cron": "61 * * * *"}, 422, id="no such minute"
        ),
        pytest.param(f"jobs/{uuid.UUID(int=1)}/retry", {}, 404, id="unknown job"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_a_reason(
    place: Place, path: str, body: dict[str, Any], status: int
) -> None:
    before = (await place.get("status"))["jobs"]
    response = await place.client.post(f"/api/background/{path}", json=body)
    assert response.status_code == status, response.text
    assert response.json()["detail"]
    assert (await place.get("status"))["jobs"] == before


async def test_the_status_says_why_nothing_runs_and_what_runs(place: Place, tmp_path: Path) -> None:
    response = await place.client.post("/api/background/pause", json={"reason": "moving house"})
    assert response.json() == {"paused": True}
    job = await place.submit("waiting", {"folder": str(tmp_path)}, priority=1)
    status = await place.get("status")
    assert status["waiting_for"] == "the queue is paused: moving house"
    assert status["by_type"]["queued"]["waiting"] == 1
    await place.client.post("/api/background/resume")
    await place.reaches(job["id"], "running")
    status = await place.get("status")
    assert status["waiting_for"] is None
    assert [one["id"] for one in status["running"]] == [job["id"]]
    assert {"name": "nothing", "priority": 10, "long": False} in status["types"]
    (tmp_path / "go").touch()
    await place.reaches(job["id"])


async def test_the_command_submits_follows_lists_and_retries(place: Place, tmp_path: Path) -> None:
    given = json.dumps({"folder": str(tmp_path), "code": "context_overflow", "times": 1})
    sent = await place.council("submit", "failing", given, "--wait", "--json")
    job = json.loads(sent.out)
    assert (sent.code, job["state"]) == (1, "dead")
    dead = await place.council("dead", "--type", "failing")
    assert job["id"] in dead.out.replace("\n", "")
    assert "failure 1" in dead.out
    retried = await place.council("retry", job["id"], "--json")
    assert json.loads(retried.out)["run"] == 2
    shown = await place.council("show", job["id"], "--watch")
    assert (shown.code, "done" in shown.out) == (0, True)
    listed = json.loads((await place.council("list", "--state", "done", "--type", "failing", "--json")).out)
    assert job["id"] in [one["id"] for one in listed["jobs"]]


async def test_a_schedule_submits_its_job_when_it_is_due(place: Place) -> None:
    made = await place.council("schedule", "often", "* * * * *", "nothing", '{"number": 7}', "--json")
    assert made.code == 0, made.err
    schedule = json.loads(made.out)
    assert schedule["last_at"] is None
    twice = await place.council("schedule", "often", "* * * * *", "nothing")
    assert (twice.code, "remove it first" in twice.err) == (1, True)
    assert "often" in (await place.council("schedules")).out
    assert (await place.council("unschedule", "often")).code == 0
    assert (await place.get("schedules"))["schedules"] == []


async def test_a_dismissed_dead_letter_is_off_the_list_and_can_still_be_retried(
    place: Place, tmp_path: Path
) -> None:
    job = await place.submit("failing", {"folder": str(tmp_path), "code": "not_supported", "times": 1})
    await place.reaches(job["id"], "dead")
    assert (await place.council("dismiss", job["id"])).code == 0
    assert job["id"] not in [one["id"] for one in (await place.get("dead"))["jobs"]]
    assert (await place.get(f"task/{job['id']}"))["state"] == "failed"
    assert (await place.client.post(f"/api/background/jobs/{job['id']}/retry")).status_code == 202
    assert (await place.reaches(job["id"], "done"))["run"] == 2
