"""How long a council takes, over the least that its engine's times allow."""

from __future__ import annotations

import time
from typing import Any

from tests.bench.figures import Figure, Scale, of_rounds
from tests.bench.rig import Rig, rig

RESULT = "full"


async def run(scale: Scale) -> list[Figure]:
    return [await _wide(scale), await _narrow(scale)]


async def _wide(scale: Scale) -> Figure:
    """5 agents of 5 models on 1 node with 5 slots, 2 s an answer: each stage lasts as long as one answer."""
    names = [f"agent{number}" for number in range(1, 6)]
    models = [{"name": name, "duration_ms": 2000} for name in names]
    async with rig(models, slots=5) as found:
        took = [await _council(found, names) for _ in range(scale.council_rounds)]
    return _figure("council of 5, 5 slots, answers of 2 s", took, 2.0 + 2.0 + 2.0)


async def _narrow(scale: Scale) -> Figure:
    """3 agents of one model that has 1 slot, 1 s an answer: every answer waits for the one before."""
    async with rig([{"name": "only", "duration_ms": 1000}], slots=1) as found:
        took = [await _council(found, ["only"] * 3) for _ in range(scale.council_rounds)]
    return _figure("council of 3, 1 slot, answers of 1 s", took, 3.0 + 3.0 + 1.0)


def _figure(what: str, took: list[float], bound_s: float) -> Figure:
    return of_rounds(what, took, "s", peers=("bound", [bound_s]), target=1.05, judged="ratio")


async def _council(found: Rig, agents: list[str]) -> float:
    """Seconds from asking to having the whole session, as a client of the API sees it."""
    asked: dict[str, Any] = {
        "question": "What makes a measurement trustworthy?",
        "selected_agents": agents,
        "chairman": agents[0],
    }
    began = time.perf_counter()
    url = f"{found.master.url}/api/council/sessions?wait=true&wait_s=60"
    async with found.client.post(url, json=asked) as response:
        session = await response.json()
    took = time.perf_counter() - began
    if response.status != 201 or session.get("result") != RESULT:
        raise RuntimeError(f"the council ended as {response.status}: {str(session)[:600]}")
    return took
