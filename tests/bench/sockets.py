"""200 sockets watch live sessions: no event may be lost, and the master has to stay quick for others."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from tests import processes
from tests.bench.figures import Figure, Scale, percentile
from tests.bench.rig import Rig, rig

SESSIONS = 4
SOCKETS = 200
AGENTS = 3
TOKENS, TOKEN_MS = 50, 100
_PROBE_EVERY_S = 0.02
_LIMIT_S = 90.0


async def run(scale: Scale) -> list[Figure]:
    del scale  # one run is long enough for its percentiles
    model = {"name": "talker", "token_ms": TOKEN_MS, "answer_tokens": TOKENS}
    async with rig([model]) as found:
        quiet = await _probe_for(found, 2.0)
        sessions = [await _ask(found) for _ in range(SESSIONS)]
        watching = asyncio.create_task(_watch(found, sessions))
        busy = await _probe_while(found, watching)
        seen = await watching
    sent = sum(max(one["last_seq"] for one in seen if one["session"] == name) for name in sessions) * (
        SOCKETS // SESSIONS
    )
    received = sum(one["in_order"] for one in seen)
    took = max(one["ended"] for one in seen) - min(one["opened"] for one in seen)
    late_ms = [late for one in seen for late in one["late_ms"]]
    quiet_ms = percentile(quiet, 0.99) * 1000
    return [
        Figure(f"{SOCKETS} sockets: events lost of {sent}", float(sent - received), "", target=0.0),
        Figure(f"{SOCKETS} sockets: events a second", received / took, "/s"),
        Figure(
            f"{SOCKETS} sockets: GET /v1/models p99",
            percentile(busy, 0.99) * 1000,
            "ms",
            peer="nobody watching",
            peer_value=quiet_ms,
            target=50.0,
        ),
        Figure(f"{SOCKETS} sockets: event to socket p99", percentile(late_ms, 0.99), "ms"),
    ]


async def _ask(found: Rig) -> str:
    asked = {"question": "Who watches?", "selected_agents": ["talker"] * AGENTS, "chairman": "talker"}
    async with found.client.post(f"{found.master.url}/api/council/sessions", json=asked) as response:
        session = await response.json()
    if response.status != 201:
        raise RuntimeError(f"no session: {session}")
    return str(session["id"])


async def _probe(found: Rig) -> float:
    """A request that needs the master's loop and nothing else: its latency is little but the loop's lag."""
    began = time.perf_counter()
    async with found.client.get(f"{found.master.url}/v1/models") as response:
        await response.read()
    return time.perf_counter() - began


async def _probe_for(found: Rig, seconds: float) -> list[float]:
    return await _probe_while(found, asyncio.create_task(asyncio.sleep(seconds)))


async def _probe_while(found: Rig, running: asyncio.Task[Any]) -> list[float]:
    times: list[float] = []
    while not running.done():
        times.append(await _probe(found))
        await asyncio.sleep(_PROBE_EVERY_S)
    return times


async def _watch(found: Rig, sessions: list[str]) -> list[dict[str, Any]]:
    """The watchers have a process of their own, or their work would delay the probe."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.watchers",
        found.master.url,
        str(SOCKETS // SESSIONS),
        *sessions,
        cwd=processes.ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_LIMIT_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError("the watchers failed; their error is above")
    seen: list[dict[str, Any]] = json.loads(out)
    return seen
