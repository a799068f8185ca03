"""What is measured, as real processes on loopback: stand-in engine, node, master, and HAProxy as the peer."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests import processes
from tests.standin.process import StandInProcess

SLOTS = 64
CONTEXT = 8192
_READY_S = 20.0
_HAPROXY = """
global
    nbthread 1
    maxconn 1000
defaults
    mode http
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout client 120s
    timeout server 120s
frontend calls
    bind 127.0.0.1:{port}
    default_backend engine
backend engine
    balance leastconn
    server one {address} maxconn {slots}
"""


@dataclass(frozen=True, slots=True)
class Route:
    """One way to the same engine. `pids` are the processes that it adds."""

    name: str
    url: str
    dialect: str
    pids: tuple[int, ...] = ()

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
    routes: list[Route] = field(default_factory=list)


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def resident_mb(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 2**20


@asynccontextmanager
async def rig(
    models: Iterable[Mapping[str, Any]], *, slots: int = SLOTS, peer: bool = False
) -> AsyncIterator[Rig]:
    """Everything between a client and a stand-in that has `models` loaded, with a warm connection each."""
    resident = [dict(model, resident=True) for model in models]
    config = {"models": resident, "slots": slots, "max_loaded": 16}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        engine = stack.enter_context(StandInProcess(config))
        env = {"OLLAMA_NUM_PARALLEL": str(slots), "COUNCIL_NODE_CONTEXT": str(CONTEXT)}
        node = await stack.enter_async_context(
            processes.node(folder / "node", name="pc2", ollama=engine.base_url, env=env)
        )
        # The beat of a default installation: tests use a faster one, which would count as work per call.
        master = await stack.enter_async_context(
            processes.master(folder / "master", nodes={"pc2": node.url}, env={"COUNCIL_HEARTBEAT_S": "2"})
        )
        client = await stack.enter_async_context(session())
        found = Rig(engine, node, master, client)
        found.routes.append(Route("direct", f"{engine.base_url}/api/chat", "ollama"))
        if peer and shutil.which("haproxy"):
            url, pid = await stack.enter_async_context(_haproxy(folder, engine.base_url))
            found.routes.append(Route("HAProxy", f"{url}/api/chat", "ollama", (pid,)))
        found.routes.append(Route("node", f"{node.url}/api/generate", "node", (node.pid,)))
        found.routes.append(
            Route("master + node", f"{master.url}/v1/chat/completions", "openai", (master.pid, node.pid))
        )
        await _until_models_known(found, len(resident))
        yield found


def session() -> aiohttp.ClientSession:
    """The client of all benches: aiohttp, since it is the quickest at hand and the same for every path."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=120),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _until_models_known(found: Rig, count: int) -> None:
    async with asyncio.timeout(_READY_S):
        while True:
            async with found.client.get(f"{found.master.url}/health/models") as response:
                if len((await response.json()).get("models", ())) >= count:
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _haproxy(folder: Path, engine_url: str) -> AsyncIterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "haproxy.cfg"
    text = _HAPROXY.format(port=port, address=engine_url.removeprefix("http://"), slots=SLOTS)
    await asyncio.to_thread(config.write_text, text, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "haproxy", "-db", "-q", "-f", str(config), stdin=asyncio.subprocess.DEVNULL
    )
    try:
        await _until_listening(port, process)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_listening(port: int, process: asyncio.subprocess.Process) -> None:
    ends = time.monotonic() + _READY_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None or time.monotonic() > ends:
                raise
            await asyncio.sleep(0.05)
            continue
        writer.close()
        await writer.wait_closed()
        return
