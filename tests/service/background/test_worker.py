"""Jobs in processes of their own: what they run, what they leave when killed, and who takes it up."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from tests import processes, zygote
from tests.processes import ROOT, ForkedProcess, Program, clean_environment
from tests.service.background.test_api import OPEN
from tests.service.background.workshop import ENDED
from tests.service.master.rig import model
from tests.standin import StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A worker is nice to the machine: where all cores have work, it gets a tenth of one.
PATIENCE_S = 30.0


@dataclass(slots=True)
class Worker:
    process: asyncio.subprocess.Process | ForkedProcess
    executor: str


@dataclass(slots=True)
class Place:
    folder: Path
    standin: StandInOllama
    master: Program
    client: httpx.AsyncClient
    env: Mapping[str, str]
    database: str | None = None

    async def submit(self, type_name: str, given: Mapping[str, Any]) -> str:
        body = {"type": type_name, "input": dict(given)}
        response = await self.client.post("/api/background/jobs", json=body)
        assert response.status_code == 201, response.text
        job_id: str = response.json()["id"]
        return job_id

    async def reaches(self, job_id: str, *states: str, within_s: float = 60.0) -> dict[str, Any]:
        async with asyncio.timeout(within_s):
            while True:
                job: dict[str, Any] = (await self.client.get(f"/api/background/task/{job_id}")).json()
                if job["state"] in (states or ENDED):
                    return job
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        # Where the database is a server's, a worker shares nothing else with the master.
        data_dir = self.folder / ("master" if self.database is None else "worker")
        where = ("--data-dir", str(data_dir), "--url", self.master.url)
        arguments = ("jobs", "worker", *where, "--exit-with-parent")
        env = clean_environment({**self.env, "HOME": str(self.folder / "elsewhere")})
        process: asyncio.subprocess.Process | ForkedProcess
        with (self.folder / "worker.log").open("ab") as stderr:
            if zygote.AVAILABLE:
                process = await ForkedProcess.start("master.cli", arguments, env=env, stderr=stderr)
            else:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "master.cli", *arguments),
                    cwd=ROOT,
                    env=env,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=stderr,
                )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                line = await process.stdout.readline()
            yield Worker(process, json.loads(line)["executor"])
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(PATIENCE_S):
                code = await process.wait()
            assert code in (0, -9)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with _started(tmp_path_factory.mktemp("workers")) as found:
        yield found


@asynccontextmanager
async def _started(folder: Path, database: str | None = None) -> AsyncIterator[Place]:
    env = {**OPEN, "BG_IN_MASTER": "false"}
    if database is not None:
        env["COUNCIL_DATABASE_URL"] = database
    async with AsyncExitStack() as stack:
        standin = await stack.enter_async_context(StandInOllama([model("bg")], slots=2))
        node = await stack.enter_async_context(
            processes.node(folder / "node", name="pc2", ollama=standin.base_url)
        )
        master = await stack.enter_async_context(
            processes.master(folder / "master", nodes={"pc2": node.url}, env=env)
        )
        client = await stack.enter_async_context(processes.client(master))
        yield Place(folder, standin, master, client, env, database)


async def test_a_worker_runs_jobs_whose_calls_go_through_the_master(place: Place) -> None:
    job_id = await place.submit("asking", {"calls": 2})
    status = (await place.client.get("/api/background/status")).json()
    assert (status["runs_here"], status["jobs"]) == (False, {"queued": 1})
    async with place.worker() as worker:
        job = await place.reaches(job_id, "running", *ENDED)
        assert job["executor"] in (worker.executor, None)
        if hasattr(os, "nice"):
            assert psutil.Process(worker.process.pid).nice() >= 10
        job = await place.reaches(job_id)
    assert job["state"] == "done"
    calls = [one for one in place.standin.log if job_id in str(one.messages)]
    assert job["usage"]["calls"] == len(calls) == 2
    assert job["usage"]["completion_tokens"] == sum(one.eval_count or 0 for one in calls)


async def test_a_killed_workers_job_is_taken_up_by_another_within_seconds(place: Place) -> None:
    await _dies_and_another_goes_on(place)


@pytest.mark.long
async def test_on_a_server_a_worker_shares_the_database_alone_and_is_seen_to_die(
    postgres_url: str, tmp_path: Path
) -> None:
    async with _started(tmp_path, postgres_url) as place:
        await _dies_and_another_goes_on(place)


async def _dies_and_another_goes_on(place: Place) -> None:
    place.standin.set_model(model("bg", token_ms=50, reply="word " * 2000))
    async with place.worker() as first:
        job_id = await place.submit("asking", {"calls": 1})
        await place.standin.until(lambda one: any(call.outcome == "running" for call in one.log), 20)
        async with place.worker() as second:
            first.process.kill()
            place.standin.set_model(model("bg"))
            job = await place.reaches(job_id, "done", within_s=45.0)
            assert second.executor != first.executor
    assert (job["state"], job["attempts"]) == ("done", 0)
    # The call in flight at the kill ended in its engine, and is kept with its usage unknown.
    await place.standin.until(lambda one: all(call.outcome != "running" for call in one.log), 20)
    assert job["usage"]["calls"] == 2
    assert job["usage"]["calls_of_unknown_usage"] == 1


async def test_a_worker_that_is_stopped_hands_its_jobs_back(place: Place, tmp_path: Path) -> None:
    async with place.worker():
        job_id = await place.submit("waiting", {"folder": str(tmp_path)})
        await place.reaches(job_id, "running")
    job = await place.reaches(job_id, "queued", within_s=PATIENCE_S)
    assert job["attempts"] == 0
    response = await place.client.post(f"/api/background/jobs/{job_id}/cancel")
    assert response.json()["state"] == "cancelled"


async def test_cancelling_reaches_the_job_in_another_process(place: Place, tmp_path: Path) -> None:
    async with place.worker():
        job_id = await place.submit("waiting", {"folder": str(tmp_path)})
        await place.reaches(job_id, "running")
        await place.client.post(f"/api/background/jobs/{job_id}/cancel")
        await place.reaches(job_id, "cancelled", within_s=PATIENCE_S)
