"""What is measured, as real processes on loopback: stand-in engine, node, master, and peers beside them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests import processes
from tests.bench import hops, peers
from tests.bench.hops import two_hops
from tests.standin.process import StandInProcess

SLOTS = 64
CONTEXT = 8192
OURS = "master + node"
_READY_S = 20.0


@dataclass(frozen=True, slots=True)
class Route:
    """One way to the same engine. `pids` are the processes that it adds."""

    name: str
    url: str
    dialect: str
    pids: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def effort(self) -> float:
        """The part of the calls that is enough for it: LiteLLM would take most of the bench's time."""
        return 0.06 if self.name == "LiteLLM" else 1.0

    def body(self, model: str, text: str, *, stream: bool) -> dict[str, Any]:
        """The same call in the words of this end. The load-time option is what the node sends, or the engine
        would reload the model between the routes.
        """
        asked: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "stream": stream,
        }
        if self.dialect == "ollama":
            asked["options"] = {"num_ctx": CONTEXT}
        return asked

    def cpu_s(self) -> float:
        """CPU time that its processes have used, user and system, in seconds."""
        return sum(cpu_s(pid) for pid in self.pids)


@dataclass(slots=True)
class Rig:
    engine: StandInProcess
    node: processes.Program
    master: processes.Program
    client: aiohttp.ClientSession
    slots: int
    routes: list[Route] = field(default_factory=list)


def cpu_s(pid: int) -> float:
    """CPU time of a process. Linux tells it in nanoseconds, others in ticks of some milliseconds."""
    try:
        threads = [one / "schedstat" for one in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int(one.read_text().split()[0]) for one in threads) / 1e9
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


def resident_mb(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 2**20


@asynccontextmanager
async def rig(
    models: Iterable[Mapping[str, Any]],
    *,
    slots: int = SLOTS,
    shared_speed: float = 0.0,
    peer: bool = False,
    master_env: Mapping[str, str] | None = None,
) -> AsyncIterator[Rig]:
    """Everything between a client and a stand-in that has `models` loaded, with a warm connection each."""
    resident = [dict(model, resident=True) for model in models]
    config = {"models": resident, "slots": slots, "max_loaded": 16, "shared_speed": shared_speed}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        engine = stack.enter_context(StandInProcess(config))
        env = {"OLLAMA_NUM_PARALLEL": str(slots), "COUNCIL_NODE_CONTEXT": str(CONTEXT)}
        node = await stack.enter_async_context(
            processes.node(folder / "node", name="pc2", ollama=engine.base_url, env=env)
        )
        # The beat of a default installation: tests use a faster one, which would count as work per call.
        master = await stack.enter_async_context(
            processes.master(
                folder / "master",
                nodes={"pc2": node.url},
                env={"COUNCIL_HEARTBEAT_S": "2", **(master_env or {})},
            )
        )
        client = await stack.enter_async_context(session())
        found = Rig(engine, node, master, client, slots)
        found.routes.append(Route("direct", f"{engine.base_url}/api/chat", "ollama"))
        if peer:
            names = [str(model["name"]) for model in resident]
            for one in await _peers(stack, folder, engine.base_url, names):
                found.routes.append(Route(one.name, one.url, one.dialect, one.pids, one.headers))
        found.routes.append(Route("node", f"{node.url}/api/generate", "node", (node.pid,)))
        found.routes.append(
            Route(OURS, f"{master.url}/v1/chat/completions", "openai", (master.pid, node.pid))
        )
        await until_models_known(client, master.url, len(resident))
        yield found


async def _peers(stack: AsyncExitStack, folder: Path, engine: str, models: list[str]) -> list[peers.Peer]:
    """Those that are installed, before one engine."""
    absent = peers.missing()
    found = [await stack.enter_async_context(two_hops(kind, engine)) for kind in hops.NAMES]
    if "HAProxy" not in absent:
        found.append(await stack.enter_async_context(peers.haproxy(folder, [engine], SLOTS)))
    if "LiteLLM" not in absent:
        found.append(
            await stack.enter_async_context(peers.litellm(folder, [engine], models, context=CONTEXT))
        )
    return found


def session() -> aiohttp.ClientSession:
    """The client of all benches: aiohttp, since it is the quickest at hand and the same for every path."""
    return aiohttp.ClientSession(
        # Servers close what is idle for 5 s: a call on such a connection would fail.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0),
        timeout=aiohttp.ClientTimeout(total=120),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def until_models_known(client: aiohttp.ClientSession, master: str, count: int, nodes: int = 1) -> None:
    """Until the master knows so many models on each node."""
    async with asyncio.timeout(_READY_S):
        while True:
            async with client.get(f"{master}/api/cluster/workers") as response:
                workers = (await response.json())["workers"]
            if sum(len(one["models"]) >= count for one in workers) >= nodes:
                return
            await asyncio.sleep(0.05)
