"""Non-streamed calls: latency and CPU that each hop adds, and calls a second at 8 in flight.

The answer is one token long: what a token costs is the matter of the chunk bench.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tests.bench import hops
from tests.bench.figures import Figure, Scale, median, of_rounds, scaled
from tests.bench.rig import OURS, Rig, Route, rig

MODEL = {"name": "short", "reply": {"tokens": ["yes"]}}
IN_FLIGHT = 8
_WARM_UP = 40
_HEADERS = {"content-type": "application/json"}


async def run(scale: Scale) -> list[Figure]:
    latency_ms: dict[str, list[float]] = defaultdict(list)
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    busy_cpu_ms: dict[str, list[float]] = defaultdict(list)
    rate: dict[str, list[float]] = defaultdict(list)
    async with rig([MODEL], peer=True) as found:
        for route in found.routes:
            await _parallel(found, route, max(round(_WARM_UP * route.effort), IN_FLIGHT))
        for number in range(scale.rounds):
            for route in found.routes[number % 2 :] + found.routes[: number % 2]:
                used, calls = route.cpu_s(), round(scale.calls * route.effort)
                times = [await _call(found, route) for _ in range(calls)]
                latency_ms[route.name].append(median(times) * 1000)
                cpu_ms[route.name].append((route.cpu_s() - used) * 1000 / calls)
                used, began, calls = route.cpu_s(), time.perf_counter(), calls * 2
                await _parallel(found, route, calls)
                rate[route.name].append(calls / (time.perf_counter() - began))
                busy_cpu_ms[route.name].append((route.cpu_s() - used) * 1000 / calls)
            await asyncio.to_thread(found.engine.reset)
        names = [route.name for route in found.routes]
    return _figures(names, latency_ms, cpu_ms, busy_cpu_ms, rate)


def _figures(
    names: list[str],
    latency_ms: dict[str, list[float]],
    cpu_ms: dict[str, list[float]],
    busy_cpu_ms: dict[str, list[float]],
    rate: dict[str, list[float]],
) -> list[Figure]:
    direct = latency_ms["direct"]
    added = {
        name: [ours - base for ours, base in zip(latency_ms[name], direct, strict=True)] for name in names
    }
    made = [of_rounds("call, direct to the engine: p50", direct, "ms")]
    slower = [one / hops.ASSUMED_MS for one in cpu_ms[hops.NAMES["framework"]]]
    for what, values, target in (
        ("added p50", added, 2.0),
        ("CPU, 1 in flight", cpu_ms, 1.0),
        (f"CPU, {IN_FLIGHT} in flight", busy_cpu_ms, 1.0),
    ):
        for name in names[1:]:
            made.append(_beside_peers(f"call, {name}: {what}", name, values, target=target))
        made.append(scaled(f"call, {OURS}: {what}", values[OURS], slower, target))
    for name in names:
        peer = None if name == "direct" else ("direct", rate["direct"])
        made.append(of_rounds(f"calls/s at {IN_FLIGHT} in flight, {name}", rate[name], "/s", peers=peer))
    return made


def _beside_peers(what: str, name: str, values: Mapping[str, Sequence[float]], *, target: float) -> Figure:
    """The target is the master's; beside it stand two programs that do nothing, which tells the machine."""
    peer = {"node": "HAProxy", OURS: hops.NAMES["framework"]}.get(name)
    beside = (peer, values[peer]) if peer is not None and peer in values else None
    return of_rounds(what, values[name], "ms", peers=beside, target=target if name == OURS else None)


async def slowness(found: Rig, calls: int) -> float:
    """How many times slower this machine is now than the one that the targets were set for, by CPU time: on a
    quiet machine that is what the hops add to a call, and on a busy one it still is.
    """
    route = next(one for one in found.routes if one.name == hops.NAMES["framework"])
    used = route.cpu_s()
    for _ in range(calls):
        await _call(found, route)
    return (route.cpu_s() - used) * 1000 / calls / hops.ASSUMED_MS


async def _call(found: Rig, route: Route) -> float:
    """Seconds from the request to the whole answer."""
    body = json.dumps(route.body("short", "Yes or no?", stream=False))
    began = time.perf_counter()
    async with found.client.post(route.url, data=body, headers={**_HEADERS, **route.headers}) as response:
        answer = await response.read()
    ended = time.perf_counter()
    if response.status != 200 or b"yes" not in answer:
        raise RuntimeError(f"{route.name} answered {response.status}: {answer[:300]!r}")
    return ended - began


async def _parallel(found: Rig, route: Route, calls: int) -> None:
    left = calls

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await _call(found, route)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(worker())
