"""Several nodes before an engine each, and one master: processes that a test kills, freezes and restarts.

Addresses stay over a restart, as they do for a PC with a service that starts at boot.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import httpx

from tests import processes
from tests.processes import Program
from tests.service.master.rig import ENDED
from tests.standin import StandInModel, StandInOllama
from tests.standin.journal import Counters

UNBOUNDED = 64  # slots of a stand-in that leaves the bounding to the node before it


class Engine(Protocol):
    """A stand-in, in this process or in one of its own. Used as `async with`."""

    @property
    def base_url(self) -> str: ...

    @property
    def counters(self) -> Counters: ...

    async def until(self, predicate: Callable[[Any], object], timeout_s: float = ...) -> None: ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def _is_idle(engine: Engine) -> bool:
    return not any(engine.counters.in_flight.values())


def lasting_port() -> int:
    """A free port that no outgoing connection is given while its server is down: below the ephemeral ones."""
    for port in random.sample(range(10_240, 32_768), 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@dataclass
class FleetNode:
    """A node on an address of its own before its own engine. `program` is `None` while it is down."""

    name: str
    folder: Path
    engine: Engine
    slots: int
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lasting_port)
    program: Program | None = None
    frozen: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_well(self) -> bool:
        return self.program is not None and not self.frozen

    async def start(self) -> None:
        self.program = await processes.start(
            "worker_node",
            *("--port", str(self.port), "--name", self.name),
            data_dir=self.folder / self.name,
            env={
                "COUNCIL_NODE_ENGINE": "ollama",
                "OLLAMA_BASE_URL": self.engine.base_url,
                "OLLAMA_NUM_PARALLEL": str(self.slots),
                "OLLAMA_MAX_LOADED_MODELS": "8",
                "COUNCIL_NODE_DRAIN_TIMEOUT": "1",
                **self.env,
            },
        )

    async def kill(self) -> None:
        if self.program is not None:
            program, self.program = self.program, None
            with suppress(ProcessLookupError):
                program.kill()
            await program.wait()
            self.frozen = False

    async def stop(self) -> int | None:
        """End it in order; its exit code."""
        if self.program is None:
            return None
        program, self.program = self.program, None
        self.frozen = False
        return await program.stop()

    def freeze(self) -> None:
        assert self.program is not None
        self.program.freeze()
        self.frozen = True

    def thaw(self) -> None:
        if self.program is not None and self.frozen:
            self.program.thaw()
        self.frozen = False

    async def heal(self) -> None:
        """Running, whatever it was before."""
        self.thaw()
        if self.program is None:
            await self.start()


@dataclass
class Fleet:
    """A master that can be killed and restarted, and its nodes by name."""

    folder: Path
    nodes: dict[str, FleetNode]
    env: Mapping[str, str]
    addresses: Mapping[str, str] = field(default_factory=dict)
    master: Program | None = None
    port: int = field(default_factory=lasting_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start_master(self) -> None:
        listed = {name: self.addresses.get(name, node.url) for name, node in self.nodes.items()}
        self.master = await processes.start_master(
            self.folder / "master", "--port", str(self.port), nodes=listed, env=self.env
        )

    async def kill_master(self) -> None:
        assert self.master is not None
        program, self.master = self.master, None
        program.kill()
        await program.wait()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=self.url, timeout=30.0, trust_env=False) as found:
            yield found

    async def workers(self) -> dict[str, dict[str, Any]]:
        async with self.client() as client:
            found = (await client.get("/api/cluster/workers")).json()["workers"]
        return {one["name"]: one for one in found}

    async def until(self, name: str, *states: str, within_s: float = 20.0) -> dict[str, Any]:
        """The node once the master sees it in one of these states."""
        seen: dict[str, Any] = {}
        try:
            async with asyncio.timeout(within_s):
                while True:
                    seen = (await self.workers())[name]
                    if seen["state"] in states:
                        return seen
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{name} did not become {' or '.join(states)}: {seen}") from None

    async def settle(self, within_s: float = 30.0) -> None:
        """Every node runs and the master sees it well."""
        for node in self.nodes.values():
            await node.heal()
        for name in self.nodes:
            await self.until(name, "healthy", within_s=within_s)

    # -- asking -------------------------------------------------------------------------------------------

    async def ask(self, body: Mapping[str, Any], *, key: str | None = None) -> str:
        """Open a session; asked again under the same key while there is no master. Its id."""
        headers = {"idempotency-key": key} if key else {}
        while True:
            with suppress(httpx.TransportError):
                async with self.client() as client:
                    answer = await client.post("/api/council/sessions", json=dict(body), headers=headers)
                if answer.status_code in (200, 201, 202):
                    return str(answer.json()["id"])
                # Full, or the nodes that have a model are down this moment: it says when to come back.
                assert answer.status_code in (503, 409), answer.text
                assert "retry-after" in answer.headers, answer.text
                await asyncio.sleep(min(float(answer.headers["retry-after"]), 1.0))
                continue
            assert key is not None, "the master went away under a question without a key"
            await asyncio.sleep(0.2)

    async def follow(self, session_id: str) -> list[dict[str, Any]]:
        """Every event to the end, over as many connections as it takes; `seq` rises by one, or a snapshot."""
        events: list[dict[str, Any]] = []
        seq = 0
        while True:
            with suppress(httpx.TransportError):
                async with self.client() as client:
                    headers = {"accept": "text/event-stream", "last-event-id": str(seq)}
                    address = f"/api/council/sessions/{session_id}/events"
                    async with client.stream("GET", address, headers=headers) as stream:
                        if stream.status_code == 204:
                            return events
                        assert stream.status_code == 200, (await stream.aread()).decode()
                        async for line in stream.aiter_lines():
                            if not line.startswith("data: "):
                                continue
                            event = json.loads(line.removeprefix("data: "))
                            assert event["type"] == "snapshot" or event["seq"] == seq + 1, (seq, event)
                            seq = event["seq"]
                            events.append(event)
                    session = (await client.get(f"/api/council/sessions/{session_id}")).json()
                    if session["state"] in ENDED:
                        return events
            await asyncio.sleep(0.2)

    async def get(self, session_id: str) -> dict[str, Any]:
        async with self.client() as client:
            answer = await client.get(f"/api/council/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        session: dict[str, Any] = answer.json()
        return session

    async def council(self, body: Mapping[str, Any], within_s: float = 60.0) -> dict[str, Any]:
        """A whole council: the session as it ended."""
        async with asyncio.timeout(within_s):
            session_id = await self.ask(body)
            await self.follow(session_id)
        return await self.get(session_id)

    # -- what is left -------------------------------------------------------------------------------------

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table of the master's database, read beside it."""
        address = f"file:{self.folder / 'master' / 'council.db'}?mode=ro"
        connection = sqlite3.connect(address, uri=True, timeout=10.0)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
        finally:
            connection.close()

    async def engines_fall_idle(self, within_s: float = 20.0) -> None:
        """No engine generates for anybody."""
        for node in self.nodes.values():
            try:
                await node.engine.until(_is_idle, timeout_s=within_s)
            except TimeoutError:
                held = {model: count for model, count in node.engine.counters.in_flight.items() if count}
                raise AssertionError(f"the engine of {node.name} still generates: {held}") from None

    def assert_no_traceback(self) -> None:
        for log in sorted(self.folder.glob("*.log")):
            text = log.read_text(errors="replace")
            lines = [line for line in text.splitlines() if "Traceback" in line or "Task exception" in line]
            # A report on a machine with much to do, still being made as the program was told to stop.
            lines = [line for line in lines if "timeout graceful shutdown exceeded" not in line]
            assert not lines, f"{log.name}: {lines[0][:300]} … {lines[0][-900:]}"


def bounded_by_its_node(models: Sequence[StandInModel]) -> StandInOllama:
    return StandInOllama(models, slots=UNBOUNDED, max_loaded=16, log_limit=200_000)


@asynccontextmanager
async def prepared(
    folder: Path,
    models: Mapping[str, Sequence[StandInModel]],
    *,
    slots: int = 2,
    env: Mapping[str, str] | None = None,
    node_env: Mapping[str, str] | None = None,
    engine_of: Callable[[Sequence[StandInModel]], Engine] = bounded_by_its_node,
) -> AsyncIterator[Fleet]:
    """A fleet of nodes by name, each with its models; its master is not started yet."""
    async with AsyncExitStack() as stack:
        nodes: dict[str, FleetNode] = {}
        for name, own in models.items():
            engine = await stack.enter_async_context(engine_of(own))
            nodes[name] = FleetNode(name, folder, engine, slots, node_env or {})
            stack.push_async_callback(nodes[name].stop)
        await asyncio.gather(*[node.start() for node in nodes.values()])
        fleet = Fleet(folder, nodes, env or {})

        async def stop_master() -> None:
            if fleet.master is not None:
                await fleet.master.stop()

        stack.push_async_callback(stop_master)
        yield fleet
    fleet.assert_no_traceback()


@asynccontextmanager
async def running(
    folder: Path, models: Mapping[str, Sequence[StandInModel]], **settings: Any
) -> AsyncIterator[Fleet]:
    """A fleet with its master, all nodes seen healthy; settings as for `prepared`."""
    async with prepared(folder, models, **settings) as fleet:
        await fleet.start_master()
        await fleet.settle()
        yield fleet
