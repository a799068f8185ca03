"""Two masters on one PostgreSQL database, one engine and one node; each is a process on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

from tests import processes
from tests.processes import Program
from tests.service.master.accounts import calls_of, is_canary, place_of, rows
from tests.service.master.rig import CHAIRMAN, MODELS, SEATS, assert_honest, model
from tests.standin import StandInOllama

QUESTION = {"question": "What is 2 + 2?", "selected_agents": list(SEATS), "chairman": CHAIRMAN}


@dataclass
class Pair:
    """Masters `a` and `b`, and how to lose and replace them."""

    folder: Path
    database: str
    standin: StandInOllama
    node: Program
    masters: dict[str, Program] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    lives: int = 0

    async def start(self, name: str, *, knows_node: bool = True) -> Program:
        """A master in a data folder of its own, ready and known to those that live."""
        self.lives += 1
        program = await processes.start_master(
            self.folder / f"{name}-{self.lives}",
            "--name",
            name,
            nodes={"pc2": self.node.url} if knows_node else {},
            env={"COUNCIL_DATABASE_URL": self.database, "COUNCIL_NO_NODE_TIMEOUT_S": "5", **self.env},
        )
        self.masters[name] = program
        for one in self.masters.values():
            await self._until(
                one, lambda told: len(told) == len(self.masters), "/api/cluster/masters", "masters"
            )
            if knows_node:
                await self._until(
                    one, lambda told: all(w["models"] for w in told), "/api/cluster/workers", "workers"
                )
        return program

    async def kill(self, name: str) -> None:
        program = self.masters.pop(name)
        program.kill()
        await program.wait()

    async def stop(self, name: str) -> None:
        await self.masters.pop(name).stop()

    async def _until(
        self,
        program: Program,
        wanted: Callable[[list[Any]], bool],
        path: str,
        what: str,
        within_s: float = 30.0,
    ) -> None:
        async with asyncio.timeout(within_s), self.client(program) as client:
            while True:
                told = (await client.get(path)).json()[what]
                if wanted(told):
                    return
                await asyncio.sleep(0.1)

    async def known_nodes(self, name: str, wanted: set[str]) -> None:
        """Wait until a master knows exactly these nodes."""
        await self._until(
            self.masters[name],
            lambda told: {one["name"] for one in told} == wanted,
            "/api/cluster/workers",
            "workers",
        )

    @asynccontextmanager
    async def client(self, program: Program) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=program.url, timeout=30.0, trust_env=False) as client:
            yield client

    async def ask(self, name: str, **fields: Any) -> str:
        """Open a session at a master; its id."""
        async with self.client(self.masters[name]) as client:
            response = await client.post("/api/council/sessions", json={**QUESTION, **fields})
        assert response.status_code == 201, response.text
        found: str = response.json()["id"]
        return found

    async def request(self, name: str, method: str, path: str, **more: Any) -> httpx.Response:
        async with self.client(self.masters[name]) as client:
            return await client.request(method, f"/api/council/sessions{path}", **more)

    async def submit(self, name: str, type_name: str, given: Mapping[str, Any]) -> str:
        """Submit a job to a master; its id."""
        async with self.client(self.masters[name]) as client:
            body = {"type": type_name, "input": dict(given)}
            response = await client.post("/api/background/jobs", json=body)
        assert response.status_code == 201, response.text
        found: str = response.json()["id"]
        return found

    async def job_ended(self, name: str, job_id: str, within_s: float = 30.0) -> dict[str, Any]:
        async with asyncio.timeout(within_s), self.client(self.masters[name]) as client:
            while True:
                job: dict[str, Any] = (await client.get(f"/api/background/task/{job_id}")).json()
                if job["state"] in ("done", "dead", "cancelled"):
                    return job
                await asyncio.sleep(0.1)

    async def socket(self, name: str, session_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Every event over one WebSocket, which has to close with 1000."""
        address = self.masters[name].url.replace("http", "ws", 1)
        url = f"{address}/api/council/sessions/{session_id}/events?after={after}"
        async with connect(url, max_size=None) as socket:
            async for message in socket:
                yield json.loads(message)
        assert socket.close_code == 1000

    async def ended(self, name: str, session_id: str, within_s: float = 30.0) -> dict[str, Any]:
        """The session as a master shows it once it has ended."""
        async with asyncio.timeout(within_s):
            while True:
                told: dict[str, Any] = (await self.request(name, "GET", f"/{session_id}")).json()
                if told["completed_at"] is not None:
                    assert_honest(told)
                    return told
                await asyncio.sleep(0.1)

    def attempts(self, session_id: str) -> list[dict[str, Any]]:
        return [row for row in rows(self.database) if row["session_id"] == session_id]

    def owner(self, session_id: str) -> str:
        (row,) = rows(self.database, f"SELECT owner FROM sessions WHERE id = '{session_id}'")
        found: str = row["owner"]
        return found

    async def rows_say(self, wanted: Callable[[], bool], within_s: float = 30.0) -> None:
        """Wait until what is committed is as wanted."""
        async with asyncio.timeout(within_s):
            while not wanted():  # noqa: ASYNC110  # a row is no event of ours
                await asyncio.sleep(0.05)

    def engine_calls(self) -> Counter[tuple[str, str]]:
        """Calls that the engine answered whole, by stage and model."""
        return Counter(
            place_of(one)
            for one in self.standin.log
            if one.kind == "chat" and not is_canary(one) and one.outcome == "done"
        )

    async def both(self) -> None:
        """Both masters, each with nodes that answer, and an engine that has forgotten all."""
        for name in ("a", "b"):
            if name not in self.masters:
                await self.start(name)
        await self.anew()
        for program in self.masters.values():
            await self._until(
                program,
                lambda told: all(w["state"] == "healthy" for w in told),
                "/api/cluster/workers",
                "workers",
            )

    async def anew(self) -> None:
        """An engine that has forgotten all, once what a dead master left has ended there."""
        await self.standin.until(lambda s: all(one.outcome != "running" for one in s.log), 20)
        self.standin.reset()
        for name in MODELS:
            self.standin.set_model(model(name, token_ms=4))

    def assert_nothing_ran_twice(self, session_id: str) -> None:
        """Every call has ended well once, and what the engine did besides is what was cut off."""
        attempts = self.attempts(session_id)
        done = calls_of(attempts, "done")
        assert set(done.values()) == {1}, done
        unknown = calls_of(attempts, "interrupted")
        assert all(number <= done[place] + unknown[place] for place, number in self.engine_calls().items())


@asynccontextmanager
async def pair(
    folder: Path,
    database: str,
    *,
    names: Sequence[str] = ("a", "b"),
    slots: int = 8,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        engine = StandInOllama(
            [model(name, token_ms=4) for name in MODELS], slots=slots, max_loaded=len(MODELS)
        )
        standin = await stack.enter_async_context(engine)
        node = await stack.enter_async_context(
            processes.node(
                folder / "node",
                name="pc2",
                ollama=standin.base_url,
                env={"OLLAMA_NUM_PARALLEL": str(slots), "OLLAMA_MAX_LOADED_MODELS": "7"},
            )
        )
        found = Pair(folder, database, standin, node, env=env or {})
        try:
            for name in names:
                await found.start(name)
            yield found
        finally:
            for program in found.masters.values():
                await program.stop()
