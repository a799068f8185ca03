"""Streamed calls: latency and CPU that each hop adds to one chunk, at 1 and at 40 streams.

The stand-in says token i of a call at `started + (i + 1) * token_ms` of the system's monotonic clock and logs
`started`; the latency of a chunk is its arrival after that. What the engine itself is late is in the direct
route as well, so the difference is what a hop adds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from typing import Any

from tests.bench import calls, hops
from tests.bench.figures import Figure, Scale, median, of_rounds, scaled
from tests.bench.rig import OURS, Rig, Route, rig

WORDS = ("word ", "bird ")  # two, of one length: LiteLLM ends a stream that says the same 100 times
TOKEN_MS = {1: 2.0, 40: 40.0}
_HEADERS = {"content-type": "application/json"}
TARGET_MS = 0.2
_PROBES = 60  # calls by which the machine's speed is known


async def run(scale: Scale) -> list[Figure]:
    made: list[Figure] = []
    tokens = {streams: max(10, int(scale.stream_s * 1000 / ms)) for streams, ms in TOKEN_MS.items()}
    models = [
        {
            "name": f"s{streams}",
            "token_ms": ms,
            "reply": {"tokens": [WORDS[index % 2] for index in range(tokens[streams])]},
        }
        for streams, ms in TOKEN_MS.items()
    ]
    async with rig([calls.MODEL, *models], peer=True) as found:
        for streams, count in tokens.items():
            made += await _figures(found, scale, streams, count)
    return made


async def _figures(found: Rig, scale: Scale, streams: int, tokens: int) -> list[Figure]:
    late_ms: dict[str, list[float]] = defaultdict(list)
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    slowness: list[float] = []
    for number in range(scale.rounds):
        slowness.append(await calls.slowness(found, _PROBES))
        for route in found.routes[number % 2 :] + found.routes[: number % 2]:
            if route.name == hops.NAMES["framework"]:
                continue  # it answers when all is there
            late, spent = await _measure(found, route, streams, tokens)
            late_ms[route.name].append(late)
            cpu_ms[route.name].append(spent)
    made: list[Figure] = []
    names = list(late_ms)
    added = {
        name: [ours - base for ours, base in zip(late_ms[name], late_ms["direct"], strict=True)]
        for name in names
    }
    for what, values in (("added p50", added), ("CPU", cpu_ms)):
        for name in names[1:]:
            beside = hops.NAMES["bare"] if name == OURS else "HAProxy"
            peer = None if name == beside else (beside, values.get(beside, ()))
            target = TARGET_MS if name == OURS else None
            title = f"chunk at {streams} stream{'s' if streams > 1 else ''}, {name}: {what}"
            made.append(of_rounds(title, values[name], "ms", peers=peer, target=target))
            if name == OURS:
                made.append(scaled(title, values[name], slowness, TARGET_MS))
    return made


async def _measure(found: Rig, route: Route, streams: int, tokens: int) -> tuple[float, float]:
    """One round of one route: the median lateness of its chunks and the CPU of one chunk, in milliseconds."""
    await asyncio.to_thread(found.engine.reset)
    names = [f"stream {index}" for index in range(streams)]
    reads: dict[str, list[tuple[float, bytes]]] = {name: [] for name in names}
    gap_s = TOKEN_MS[streams] / 1000 / streams
    used = route.cpu_s()
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(_stream(found, route, f"s{streams}", name, reads[name]))
            await asyncio.sleep(gap_s)  # spread over one token's time, as independent streams are
    spent = (route.cpu_s() - used) * 1000 / (streams * tokens)
    log = await asyncio.to_thread(found.engine.log)
    started = {_asked(record): record["started_ms"] for record in log}
    late: list[float] = []
    for name in names:
        arrivals = _arrivals(reads[name])
        if len(arrivals) != tokens:
            raise RuntimeError(f"{route.name} brought {len(arrivals)} of {tokens} tokens")
        first = started[name]
        late += [at * 1000 - first - (index + 1) * TOKEN_MS[streams] for index, at in enumerate(arrivals)]
    return median(late), spent


async def _stream(found: Rig, route: Route, model: str, text: str, reads: list[tuple[float, bytes]]) -> None:
    """Keep what each read brought with its time; it is parsed when the clock has stopped."""
    body = json.dumps(route.body(model, text, stream=True))
    async with found.client.post(route.url, data=body, headers={**_HEADERS, **route.headers}) as response:
        async for data in response.content.iter_any():
            reads.append((time.monotonic(), data))
    if response.status != 200:
        raise RuntimeError(f"{route.name} answered {response.status}: {reads[:1]}")


def _asked(record: dict[str, Any]) -> str:
    messages = record["messages"]
    return str(messages[-1]["content"]) if messages else ""


def _arrivals(reads: list[tuple[float, bytes]]) -> list[float]:
    """When each token arrived: with the read that completed its line."""
    made: list[float] = []
    pending = b""
    for at, data in reads:
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            made += [at] * (len(_text(line.removeprefix(b"data: "))) // len(WORDS[0]))
    return made


def _text(line: bytes) -> str:
    if not line.startswith(b"{"):
        return ""
    value = json.loads(line)
    if "choices" in value:
        choices = value["choices"]
        return str(choices[0]["delta"].get("content") or "") if choices else ""
    if "message" in value:
        return str(value["message"].get("content") or "")
    return str(value.get("text") or "")
