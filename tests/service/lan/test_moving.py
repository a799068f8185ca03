"""PCs whose addresses change, also among each other: every member stays one, and is found again."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.processes import Program
from tests.service.lan.lan import LanMaster, lan_master, lan_node
from tests.service.lan.test_certificates import until_logged
from tests.standin import StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class House:
    """PCs with data folders of their own. Here an address is a port, for they are all one machine."""

    master: LanMaster
    standin: StandInOllama
    folder: Path

    def awake(self, name: str, *arguments: str) -> AbstractAsyncContextManager[Program]:
        return lan_node(
            self.folder / name, "--host", "0.0.0.0", *arguments, name=name, ollama=self.standin.base_url
        )

    async def joined(self, *names: str) -> dict[str, str]:
        """PCs that joined and went to sleep; the port of each."""
        ports = {}
        for name in names:
            token = await self.master.token()
            async with self.awake(name, "--join", self.master.url, "--token", token) as node:
                await self.master.until(name, "healthy")
                ports[name] = port_of(node)
        for name in names:
            await self.master.until(name, "unreachable")
        return ports

    async def at(self, name: str, port: str) -> None:
        """Wait until the master reaches the node there."""
        async with asyncio.timeout(20):
            while True:
                if port_of(await self.master.until(name, "healthy")) == port:
                    return
                await asyncio.sleep(0.1)

    def is_member(self, name: str) -> bool:
        return (self.folder / name / "node.json").exists()


def port_of(node: Program | dict[str, object]) -> str:
    return str(node["url"] if isinstance(node, dict) else node.url).rsplit(":", 1)[-1]


@pytest_asyncio.fixture(loop_scope="module")
async def house(master: LanMaster, standin: StandInOllama, tmp_path: Path) -> AsyncIterator[House]:
    yield House(master, standin, tmp_path)
    for name in await master.workers():
        await master.admin.delete(f"/api/cluster/workers/{name}")


async def test_a_pc_gets_the_address_of_one_that_sleeps_and_both_are_found(house: House) -> None:
    ports = await house.joined("pc2", "pc3")
    async with house.awake("pc2", "--port", ports["pc3"]):
        await house.at("pc2", ports["pc3"])
        sleeping = (await house.master.workers())["pc3"]
        assert "another node has its address" in sleeping["reason"]
        async with house.awake("pc3", "--port", ports["pc2"]):
            await house.at("pc3", ports["pc2"])
            await house.at("pc2", ports["pc3"])
    assert house.is_member("pc3")


async def test_two_pcs_that_swapped_addresses_at_once_are_both_found(house: House) -> None:
    ports = await house.joined("pc2", "pc3")
    async with house.awake("pc2", "--port", ports["pc2"]), house.awake("pc3", "--port", ports["pc3"]):
        await house.at("pc2", ports["pc2"])
        await house.at("pc3", ports["pc3"])
    # The master has not noticed yet that they are gone.
    async with house.awake("pc2", "--port", ports["pc3"]), house.awake("pc3", "--port", ports["pc2"]):
        await house.at("pc2", ports["pc3"])
        await house.at("pc3", ports["pc2"])


async def test_a_newcomer_at_the_address_of_a_sleeping_member_does_not_cost_it_its_place(
    house: House,
) -> None:
    ports = await house.joined("pc3")
    joining = ("--join", house.master.url, "--token", await house.master.token())
    async with house.awake("new", *joining, "--port", ports["pc3"]):
        await house.at("new", ports["pc3"])
        async with house.awake("pc3") as woken:
            await house.at("pc3", port_of(woken))
    assert house.is_member("pc3")


@asynccontextmanager
async def listening() -> AsyncIterator[str]:
    """A port that is somebody's, until it is given up."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield str(taken.getsockname()[1])


async def test_a_pc_at_an_address_of_the_settings_stays_a_member_and_is_told_why_it_is_not_used(
    standin: StandInOllama, tmp_path: Path
) -> None:
    async with listening() as port:
        pass
    listed = f"listed=https://127.0.0.1:{port}#lcn_{'k' * 20}@sha256:{'ab' * 32}"
    async with lan_master(tmp_path / "m", env={"COUNCIL_NODES": listed}) as master:
        house = House(master, standin, tmp_path)
        await house.joined("pc2")
        async with house.awake("pc2", "--port", port) as node:
            await until_logged(node, "COUNCIL_NODES")
        assert set(await master.workers()) == {"listed", "pc2"}
        async with house.awake("pc2") as node:
            await house.at("pc2", port_of(node))
        assert house.is_member("pc2")


async def test_a_pc_that_the_master_lost_says_where_it_is_within_seconds(house: House) -> None:
    token = await house.master.token()
    async with house.awake("pc2", "--join", house.master.url, "--token", token) as node:
        await house.at("pc2", port_of(node))
        key = json.loads((house.folder / "pc2" / "node.json").read_text())["key"]
        async with listening() as nobody, house.master.client(key) as as_node:
            # As it is after another lease: the master calls where nobody is.
            answer = await as_node.post("/api/cluster/renew", json={"port": int(nobody)})
            assert answer.json()["state"] == "unreachable"
            await house.at("pc2", port_of(node))
