"""What background jobs cost: the queue with jobs that do nothing, their start, and the engine's memory."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests import processes
from tests.bench.figures import Figure, Scale, of_rounds
from tests.bench.rig import resident_mb
from tests.service.background.workshop import TYPES

SETTINGS = {
    "BG_IDLE_THRESHOLD": "0",
    "BG_MAX_CPU": "1",
    "BG_MAX_MEMORY": "1",
    "COUNCIL_JOB_TYPES": TYPES,
}
_BATCH = 500
_ALONE = 15
_IDLE_S = 4.0


async def run(scale: Scale) -> list[Figure]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with processes.master(Path(folder) / "master", env=SETTINGS) as master:
            async with processes.client(master) as client:
                program = psutil.Process(master.pid)
                await asyncio.sleep(_IDLE_S)
                before_mb = resident_mb(master.pid)
                quiet = await _idle_share(program)
                each: list[float] = []
                cpu: list[float] = []
                starts: list[float] = []
                await _batch(client, 10)  # the engine starts with the first job
                for _ in range(scale.rounds):
                    spent = sum(program.cpu_times()[:2])
                    jobs = await _batch(client, _BATCH)
                    cpu.append((sum(program.cpu_times()[:2]) - spent) / _BATCH * 1000)
                    took_s = (max(map(_ended, jobs)) - min(map(_started, jobs))).total_seconds()
                    each.append(took_s / _BATCH * 1000)
                    starts += [await _start_ms(client) for _ in range(_ALONE)]
                after_mb = resident_mb(master.pid)
                launched = await _idle_share(program)
    return [
        of_rounds("no-op job, submitted in batches", each, "ms", target=10.0),
        of_rounds("CPU of the master per no-op job", cpu, "ms"),
        of_rounds("job, from submission to its start", starts, "ms"),
        of_rounds("memory, master that has run jobs", [after_mb], "MB", peers=("before", [before_mb])),
        of_rounds("CPU, job engine idle", [launched * 100], "%", peers=("not started", [quiet * 100])),
    ]


async def _idle_share(program: psutil.Process) -> float:
    """The share of a core that a program takes while nothing happens."""
    before = sum(program.cpu_times()[:2])
    await asyncio.sleep(_IDLE_S)
    return float(sum(program.cpu_times()[:2]) - before) / _IDLE_S


async def _batch(client: httpx.AsyncClient, size: int) -> list[dict[str, Any]]:
    """Jobs that do nothing, submitted at once, when all of them are done."""
    items = [{"custom_id": str(number)} for number in range(size)]
    body = {"type": "nothing", "items": items}
    batch = (await client.post("/api/background/batch", json=body)).raise_for_status().json()
    while True:  # not by the batch: to read its items again and again would be measured as well
        counts = (await client.get("/api/background/status")).json()["jobs"]
        if not any(counts.get(state) for state in ("queued", "waiting", "running")):
            break
        await asyncio.sleep(0.25)
    last = batch["items"][0]["job_id"], batch["items"][-1]["job_id"]
    return [(await client.get(f"/api/background/task/{job_id}")).json() for job_id in last]


async def _start_ms(client: httpx.AsyncClient) -> float:
    job = (await client.post("/api/background/jobs", json={"type": "nothing"})).raise_for_status().json()
    while job["state"] != "done":
        await asyncio.sleep(0.02)
        job = (await client.get(f"/api/background/task/{job['id']}")).json()
    return (_started(job) - datetime.fromisoformat(job["created_at"])).total_seconds() * 1000


def _started(job: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(job["started_at"])


def _ended(job: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(job["ended_at"])
