"""Chats while background work saturates the engine, beside chats alone: row B8 of the requirements.

Everything is real but the engine, whose times are known: a chat's first token takes `FIRST_TOKEN_MS` alone,
a job's answer `JOB_TOKENS * TOKEN_MS`. Jobs are chats with `"service_tier": "flex"`; each that ends is
followed by another.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.bench.figures import Figure, Scale, percentile
from tests.bench.rig import Rig, rig

FIRST_TOKEN_MS = 300
TOKEN_MS = 20
JOB_TOKENS = 150
CHAT_TOKENS = 6  # shorter answers teach the master nothing of the engine's speed
MODEL = {
    "name": "m",
    "first_token_ms": FIRST_TOKEN_MS,
    "token_ms": TOKEN_MS,
    "answer_tokens": JOB_TOKENS,
}
MOST_MORE_MS = 250.0
_HEADERS = {"content-type": "application/json"}
LEARNING_S = 4.0  # a job's whole answer: on such the master measures what sharing the engine costs
_SATURATED_S = 30.0
_JOB = "a job"


@dataclass(frozen=True, slots=True)
class Case:
    """An engine, and the amounts of jobs that want it. `at_once`: jobs that it runs beside no chat."""

    what: str
    slots: int
    amounts: tuple[int, ...] = (12,)
    shared_speed: float = 0.0
    most_ratio: float | None = None

    @property
    def at_once(self) -> int:
        return max(self.slots - 1, 1)


CASES = (
    Case("kept slot of 4", slots=4, most_ratio=1.05),
    Case("4 slots that share their speed", slots=4, shared_speed=0.5),
    Case("one slot", slots=1, amounts=(12, 1000)),
)


@dataclass(slots=True)
class _Chats:
    """First tokens in milliseconds after the request, and when each request was sent (ms, monotonic)."""

    first_ms: list[float] = field(default_factory=list)
    sent_ms: list[float] = field(default_factory=list)


async def run(scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    for case in CASES:
        figures += await _measure(case, scale.chats)
    return figures


async def _measure(case: Case, chats: int) -> list[Figure]:
    env = {"COUNCIL_MAX_WAITING_CALLS": str(4 * max(case.amounts))}
    figures: list[Figure] = []
    async with rig([MODEL], slots=case.slots, shared_speed=case.shared_speed, master_env=env) as found:
        await _chat_for(found, 2, 0)  # opens connections, and shows what a call takes alone
        alone = await _chat_for(found, chats, 0)
        for amount in case.amounts:
            await asyncio.to_thread(found.engine.reset)
            async with _jobs(found, amount):
                await _until_jobs_run(found, case.at_once)
                if case.most_ratio is not None:
                    await asyncio.sleep(LEARNING_S)
                began_ms = time.monotonic() * 1000
                beside = await _chat_for(found, chats, case.at_once)
                ended_ms = time.monotonic() * 1000
            jobs = [one for one in await asyncio.to_thread(found.engine.log) if _is_job(one)]
            what = f"{case.what}, {amount:,} jobs"
            figures += _first_tokens(what, case, alone, beside)
            figures += _jobs_part(what, case, beside, jobs, began_ms, ended_ms)
    return figures


def _first_tokens(what: str, case: Case, alone: _Chats, beside: _Chats) -> list[Figure]:
    made: list[Figure] = []
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        base, value = percentile(alone.first_ms, share), percentile(beside.first_ms, share)
        row = f"{what}: chat's first token {name}"
        if case.most_ratio is not None:
            made.append(Figure(row, value, "ms", "no jobs", base, target=case.most_ratio, judged="ratio"))
        else:
            made.append(Figure(row, value, "ms", "no jobs", base, target=MOST_MORE_MS, judged="more"))
    return made


def _jobs_part(
    what: str, case: Case, beside: _Chats, jobs: Sequence[dict[str, Any]], began_ms: float, ended_ms: float
) -> list[Figure]:
    """How quickly jobs left the engine, and that they had kept it busy."""
    made: list[Figure] = []
    left_ms = [
        max(leaves)
        for sent in beside.sent_ms
        if (leaves := [one["cancelled_ms"] - sent for one in jobs if _was_cut_at(one, sent, ended_ms)])
    ]
    if left_ms:
        row = f"{what}: from a chat's request to the jobs' end in the engine, p95"
        made.append(Figure(row, percentile(left_ms, 0.95), "ms", target=MOST_MORE_MS))
    busy_ms = sum(
        max(min(one["finished_ms"] or ended_ms, ended_ms) - max(one["started_ms"], began_ms), 0.0)
        for one in jobs
        if one["started_ms"] is not None
    )
    share = busy_ms / (ended_ms - began_ms) / case.at_once
    return [*made, Figure(f"{what}: part of the time in which jobs held their slots", share, "")]


def _is_job(record: dict[str, Any]) -> bool:
    return any(message["content"] == _JOB for message in record["messages"])


def _was_cut_at(job: dict[str, Any], sent_ms: float, ended_ms: float) -> bool:
    """Whether the job ran when the chat was sent, and was cancelled for it: at the end all are."""
    started, cancelled = job["started_ms"], job["cancelled_ms"]
    if started is None or cancelled is None:
        return False
    return bool(started < sent_ms < cancelled < min(sent_ms + 2000, ended_ms))


# -- chats ------------------------------------------------------------------------------------------------


async def _chat_for(found: Rig, chats: int, jobs: int) -> _Chats:
    """Chats one after the other, each sent when so many jobs run and a little time has passed."""
    made, rng = _Chats(), random.Random(chats)
    for _ in range(chats):
        await _until_jobs_run(found, jobs)
        await asyncio.sleep(rng.uniform(0.03, 0.15))
        made.sent_ms.append(time.monotonic() * 1000)
        made.first_ms.append(await _chat(found))
    return made


async def _chat(found: Rig) -> float:
    """Milliseconds to the first text of a streamed chat, which is then read to its end."""
    body = _body("a chat", stream=True, max_tokens=CHAT_TOKENS)
    url = f"{found.master.url}/v1/chat/completions"
    first: float | None = None
    began = time.perf_counter()
    async with found.client.post(url, data=body, headers=_HEADERS) as response:
        async for line in response.content:
            if first is None and b'"content":"m' in line:
                first = (time.perf_counter() - began) * 1000
    if response.status != 200 or first is None:
        raise RuntimeError(f"a chat was answered {response.status} without text")
    return first


# -- jobs -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _jobs(found: Rig, count: int) -> AsyncIterator[None]:
    """So many jobs ask at any time, until this is left."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask_again_and_again(found)) for _ in range(count)]
        try:
            await _until_waiting(found, count)
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _ask_again_and_again(found: Rig) -> None:
    body = _body(_JOB, stream=False, service_tier="flex")
    while True:
        async with found.client.post(
            f"{found.master.url}/v1/chat/completions", data=body, headers=_HEADERS
        ) as response:
            answer = await response.json()
        if response.status != 200 or answer.get("service_tier") != "flex":
            raise RuntimeError(f"a job was answered {response.status}: {str(answer)[:300]}")


def _body(text: str, *, stream: bool, **more: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "m", "messages": messages, "stream": stream, **more}).encode()


async def _until_jobs_run(found: Rig, count: int) -> None:
    """Until the engine writes so many answers, and none of them is a chat's."""
    async with asyncio.timeout(_SATURATED_S):
        while True:
            async with found.client.get(f"{found.engine.base_url}/__control__/counters") as response:
                counters = await response.json()
            if counters["in_flight"].get("m", 0) >= count:
                return
            await asyncio.sleep(0.01)


async def _until_waiting(found: Rig, count: int) -> None:
    """Until the master has all of them, running or waiting."""
    async with asyncio.timeout(_SATURATED_S):
        while True:
            async with found.client.get(f"{found.master.url}/metrics") as response:
                text = await response.text()
            waiting = next(
                float(line.split()[1])
                for line in text.splitlines()
                if line.startswith("council_calls_waiting ")
            )
            if waiting >= count - found.slots:
                return
            await asyncio.sleep(0.05)
