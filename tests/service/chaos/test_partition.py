"""PCs whose cable is pulled and put back in mid-session: namespaces, TLS off loopback, nodes that joined."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.chaos.namespaces import Cabling, cabling
from tests.service.lan.lan import KEY
from tests.service.master.rig import CHAIRMAN, ENDED, assert_full, assert_honest

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

SEATS = ["m1", "m2", "m3"]
BODY = {"question": "Are you there?", "selected_agents": SEATS, "chairman": CHAIRMAN}
ENGINE_PORT, NODE_PORT, MASTER_PORT = 11434, 8001, 8000
QUIET = {"COUNCIL_DISCOVERY": "false"}


@dataclass
class Lan:
    """A master on the hub and a node on every other machine, all healthy."""

    cables: Cabling
    client: httpx.AsyncClient
    engines: dict[str, httpx.AsyncClient]

    async def until(self, name: str, state: str, within_s: float = 30) -> None:
        seen: Any = None
        async with asyncio.timeout(within_s):
            while True:
                workers = (await self.client.get("/api/cluster/workers")).json()["workers"]
                seen = {one["name"]: one["state"] for one in workers}
                if seen.get(name) == state:
                    return
                await asyncio.sleep(0.1)

    async def ask(self) -> str:
        answer = await self.client.post("/api/council/sessions", json=BODY)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def events(self, session_id: str) -> AsyncIterator[dict[str, Any]]:
        address = f"/api/council/sessions/{session_id}/events"
        async with self.client.stream("GET", address, headers={"accept": "text/event-stream"}) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def get(self, session_id: str) -> dict[str, Any]:
        session: dict[str, Any] = (await self.client.get(f"/api/council/sessions/{session_id}")).json()
        assert session["state"] in ENDED
        assert_honest(session)
        return session

    async def council(self) -> dict[str, Any]:
        session_id = await self.ask()
        async for _ in self.events(session_id):
            continue
        return await self.get(session_id)

    async def engine_is_idle(self, name: str, within_s: float) -> None:
        """The engine of a machine generates for nobody; its own line is not the cable."""
        async with asyncio.timeout(within_s):
            while True:
                counters = (await self.engines[name].get("/__control__/counters")).json()
                if not any(counters["in_flight"].values()):
                    return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def lan(folder: Path, *names: str, token_ms: float, tokens: int = 40) -> AsyncIterator[Lan]:
    models = [
        {"name": name, "token_ms": token_ms, "resident": True, "answer_tokens": tokens}
        for name in (*SEATS, CHAIRMAN)
    ]
    config = json.dumps({"models": models, "slots": 8, "max_loaded": 8})
    async with cabling(folder, *names) as cables:
        at_hub = {"COUNCIL_KEY": KEY, "COUNCIL_HEARTBEAT_S": "0.5", "COUNCIL_NO_NODE_TIMEOUT_S": "3", **QUIET}
        data_dir = folder / "master"
        flags = ("--host", "0.0.0.0", "--port", str(MASTER_PORT), "--data-dir", str(data_dir))
        await cables.run(cables.hub, "master", "-m", "master", *flags, "--exit-with-parent", env=at_hub)
        authority = json.loads((data_dir / "authority.json").read_text())["certificate"]
        transport = httpx.AsyncHTTPTransport(
            uds=await cables.way_to(cables.hub, "master", MASTER_PORT),
            verify=ssl.create_default_context(cadata=authority),
        )
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(
            transport=transport, base_url=f"https://127.0.0.1:{MASTER_PORT}", headers=headers, timeout=60
        ) as client:
            engines = {}
            for name in names:
                machine = cables.machines[name]
                standin = ("-m", "tests.standin", "--port", str(ENGINE_PORT), "--config", config)
                await cables.run(machine.space, f"engine-{name}", *standin, "--exit-with-parent")
                way = httpx.AsyncHTTPTransport(
                    uds=await cables.way_to(machine.space, f"engine-{name}", ENGINE_PORT)
                )
                engines[name] = httpx.AsyncClient(transport=way, base_url=f"http://127.0.0.1:{ENGINE_PORT}")
                token = (await client.post("/api/cluster/tokens", json={})).json()["token"]
                joining = ("--join", f"https://{machine.hub}:{MASTER_PORT}", "--token", token)
                where = ("--host", "0.0.0.0", "--port", str(NODE_PORT), "--data-dir", str(folder / name))
                await cables.run(
                    machine.space,
                    name,
                    *("-m", "worker_node", *where, *joining, "--name", name, "--exit-with-parent"),
                    env={"COUNCIL_NODE_ENGINE": "ollama", "OLLAMA_NUM_PARALLEL": "4", **QUIET},
                )
            found = Lan(cables, client, engines)
            for name in names:
                await found.until(name, "healthy")
            try:
                yield found
            finally:
                for engine in engines.values():
                    await engine.aclose()
    assert_no_traceback(folder)


def assert_no_traceback(folder: Path) -> None:
    for log in folder.glob("*.log"):
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


async def test_a_pulled_cable_moves_the_calls_and_once_it_is_back_the_pc_is_used_again(
    tmp_path: Path,
) -> None:
    async with lan(tmp_path, "pc2", "pc3", token_ms=60) as net:
        session_id = await net.ask()
        cut: str | None = None
        since = found_s = 0.0
        nodes: dict[str, str] = {}
        restarted = []
        async with asyncio.timeout(90):
            async for event in net.events(session_id):
                if event["type"] == "call.started":
                    nodes[event["agent_id"]] = event["node"]
                elif event["type"] == "call.delta" and cut is None:
                    cut = nodes[event["agent_id"]]
                    net.cables.machines[cut].cut()
                    since = time.monotonic()
                elif event["type"] == "call.restarted":
                    found_s = found_s or time.monotonic() - since
                    restarted.append(event)
        assert cut is not None
        assert_full(await net.get(session_id))
        assert {event["from_node"] for event in restarted} == {cut}
        assert {event["reason"] for event in restarted} <= {"node_frozen", "node_unreachable"}
        assert 0 < found_s < 7
        await net.until(cut, "unreachable")
        assert_full(await net.council())

        net.cables.machines[cut].mend()
        await net.until(cut, "healthy")
        (other,) = set(net.cables.machines) - {cut}
        net.cables.machines[other].cut()
        await net.until(other, "unreachable")
        session = await net.council()
        assert_full(session)
        assert {agent["node"] for agent in session["agents"]} == {cut}


async def test_with_every_cable_pulled_a_session_ends_honestly_and_soon(tmp_path: Path) -> None:
    async with lan(tmp_path, "pc2", token_ms=40) as net:
        session_id = await net.ask()
        since = 0.0
        async with asyncio.timeout(90):
            async for event in net.events(session_id):
                if event["type"] == "call.delta" and event["stage"] == "review" and not since:
                    net.cables.machines["pc2"].cut()
                    since = time.monotonic()
        took_s = time.monotonic() - since
        session = await net.get(session_id)
        assert (session["state"], session["result"]) == ("completed", "degraded")
        assert session["synthesis"]["kind"] == "top_ranked"
        assert all(agent["review_state"] == "failed" for agent in session["agents"])
        assert took_s < 30
        net.cables.machines["pc2"].mend()
        await net.until("pc2", "healthy")
        assert_full(await net.council())


async def test_a_pc_that_nobody_hears_lets_go_of_its_engine(tmp_path: Path) -> None:
    """Its answer would take minutes; the master cannot tell it that nobody waits for it any more."""
    async with lan(tmp_path, "pc2", token_ms=50, tokens=6000) as net:
        session_id = await net.ask()
        async with asyncio.timeout(60):
            async for event in net.events(session_id):
                if event["type"] == "call.delta":
                    net.cables.machines["pc2"].cut()
                    break
        await net.engine_is_idle("pc2", within_s=60)
        async for _ in net.events(session_id):
            continue
        session = await net.get(session_id)
        assert (session["state"], session["error"]["code"]) == ("failed", "quorum_not_met")


async def test_a_pc_that_gets_another_address_is_used_again_within_seconds(tmp_path: Path) -> None:
    async with lan(tmp_path, "pc2", token_ms=5) as net:
        pc2 = net.cables.machines["pc2"]
        pc2.get(pc2.address.rpartition(".")[0] + ".77")
        async with asyncio.timeout(15):
            while True:
                (seen,) = (await net.client.get("/api/cluster/workers")).json()["workers"]
                if (seen["url"], seen["state"]) == (f"https://{pc2.address}:{NODE_PORT}", "healthy"):
                    break
                await asyncio.sleep(0.1)
        assert_full(await net.council())


async def test_on_a_switch_without_a_router_the_line_for_a_new_pc_names_an_address_that_it_reaches(
    tmp_path: Path,
) -> None:
    async with lan(tmp_path, "pc2", token_ms=5) as net:
        made = (await net.client.post("/api/cluster/tokens", json={})).json()
        assert made["url"] == f"https://{net.cables.machines['pc2'].hub}:{MASTER_PORT}"
