"""A mixed cluster for real: the calls of several councils through our master and through each peer.

Three unequal nodes hold the same four models, one or two at a time. The calls are chats in the order of
councils (all opinions, then all reviews, then the synthesis), so that every router is asked the same. What
counts is when all have ended, and how often models were loaded for that.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests import processes
from tests.bench import peers
from tests.bench.figures import Figure, Scale, of_rounds
from tests.bench.rig import CONTEXT, OURS, Route, session, until_models_known
from tests.standin.process import StandInProcess

SLOTS = 2
# Name → load and token time in milliseconds, on a node of speed 1.
MODELS = {"small": (500, 5.0), "middle": (900, 8.0), "large": (1500, 14.0), "other": (900, 8.0)}
SPEEDS = (4.0, 1.6, 0.7)  # a graphics card, an ordinary PC, an old one
MAX_LOADED = (1, 2, 1)
COUNCILS = 6
TOKENS = (40, 25, 50)  # of an opinion, a review and a synthesis
_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Council:
    seats: Sequence[str]
    chairman: str

    @property
    def stages(self) -> tuple[Sequence[str], ...]:
        return self.seats, self.seats, [self.chairman]


@dataclass(slots=True)
class _Cluster:
    engines: list[StandInProcess]
    client: aiohttp.ClientSession
    routes: list[Route] = field(default_factory=list)


async def run(scale: Scale) -> list[Figure]:
    rng = random.Random(4)
    councils = [Council(seats := rng.sample(list(MODELS), 3), rng.choice(seats)) for _ in range(COUNCILS)]
    took_s: dict[str, list[float]] = defaultdict(list)
    loads: dict[str, list[float]] = defaultdict(list)
    async with _cluster() as found:
        ours = found.routes[-1]
        await _hold(found, ours, councils)  # so that speeds are known, as on any day but the first
        for number in range(scale.mixed_rounds):
            for route in found.routes:
                if number and route.effort < 1.0:
                    continue
                await _unload_all(found)
                began = time.perf_counter()
                await _hold(found, route, councils)
                took_s[route.name].append(time.perf_counter() - began)
                counters = [await asyncio.to_thread(engine.counters) for engine in found.engines]
                loads[route.name].append(sum(one["loads"] for one in counters))
        names = [route.name for route in found.routes]
    return _figures(names, took_s, loads)


def _figures(
    names: Sequence[str], took_s: dict[str, list[float]], loads: dict[str, list[float]]
) -> list[Figure]:
    what = f"{COUNCILS} councils' calls on 3 unequal nodes"
    made: list[Figure] = []
    for name in names:
        peer = next((other for other in ("HAProxy", "LiteLLM") if other in took_s), None)
        ours = name == OURS and peer is not None
        made.append(
            of_rounds(
                f"{what}, {name}",
                took_s[name],
                "s",
                peers=(peer, took_s[peer]) if ours and peer is not None else None,
                target=1 / 1.5 if ours and peer == "HAProxy" else None,
                judged="ratio" if ours else "value",
            )
        )
    made += [of_rounds(f"model loads of these, {name}", loads[name], "") for name in names]
    return made


@asynccontextmanager
async def _cluster() -> AsyncIterator[_Cluster]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        engines: list[StandInProcess] = []
        nodes: dict[str, processes.Program] = {}
        for speed, most in zip(SPEEDS, MAX_LOADED, strict=True):
            engine = stack.enter_context(StandInProcess(_standin(speed, most)))
            engines.append(engine)
            name = f"pc{len(engines) + 1}"
            env = {
                "OLLAMA_NUM_PARALLEL": str(SLOTS),
                "OLLAMA_MAX_LOADED_MODELS": str(most),
                "COUNCIL_NODE_CONTEXT": str(CONTEXT),
            }
            nodes[name] = await stack.enter_async_context(
                processes.node(folder / name, name=name, ollama=engine.base_url, env=env)
            )
        master = await stack.enter_async_context(
            processes.master(
                folder / "master",
                nodes={name: node.url for name, node in nodes.items()},
                env={"COUNCIL_HEARTBEAT_S": "2"},
            )
        )
        found = _Cluster(engines, await stack.enter_async_context(session()))
        found.routes += await _peers(stack, folder, engines)
        pids = (master.pid, *(node.pid for node in nodes.values()))
        found.routes.append(Route(OURS, f"{master.url}/v1/chat/completions", "openai", pids))
        await until_models_known(found.client, master.url, len(MODELS), nodes=len(nodes))
        yield found


async def _peers(stack: AsyncExitStack, folder: Path, engines: Sequence[StandInProcess]) -> list[Route]:
    urls, absent, made = [engine.base_url for engine in engines], peers.missing(), []
    if "HAProxy" not in absent:
        made.append(await stack.enter_async_context(peers.haproxy(folder, urls, SLOTS)))
    if "LiteLLM" not in absent:
        made.append(
            await stack.enter_async_context(peers.litellm(folder, urls, list(MODELS), context=CONTEXT))
        )
    return [Route(one.name, one.url, one.dialect, one.pids, one.headers) for one in made]


def _standin(speed: float, max_loaded: int) -> dict[str, Any]:
    models = [
        {
            "name": name,
            "load_ms": load_ms / speed,
            "token_ms": token_ms / speed,
            "answer_tokens": max(TOKENS),
        }
        for name, (load_ms, token_ms) in MODELS.items()
    ]
    return {"models": models, "slots": SLOTS, "max_loaded": max_loaded}


async def _unload_all(found: _Cluster) -> None:
    for engine in found.engines:
        for name in MODELS:
            await asyncio.to_thread(engine.control, "unload", {"model": name})
        await asyncio.to_thread(engine.reset)


async def _hold(found: _Cluster, route: Route, councils: Sequence[Council]) -> None:
    async with asyncio.TaskGroup() as group:
        for number, council in enumerate(councils):
            group.create_task(_council(found, route, council, number))


async def _council(found: _Cluster, route: Route, council: Council, number: int) -> None:
    for stage, models in enumerate(council.stages):
        async with asyncio.TaskGroup() as group:
            for model in models:
                group.create_task(_call(found, route, model, f"council {number}", TOKENS[stage]))


async def _call(found: _Cluster, route: Route, model: str, text: str, tokens: int) -> None:
    body = route.body(model, text, stream=False)
    if route.dialect == "ollama":
        body["options"]["num_predict"] = tokens
    else:
        body["max_tokens"] = tokens
    headers = {**_HEADERS, **route.headers}
    async with found.client.post(route.url, data=json.dumps(body), headers=headers) as response:
        answer = await response.read()
    if response.status != 200:
        raise RuntimeError(f"{route.name} answered {response.status}: {answer[:300]!r}")
