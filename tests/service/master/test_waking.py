"""`council worker wake` through the master: from the settings, from what a node told, from a person."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from master.cluster.wake import magic_packet
from tests import processes
from tests.processes import Program

OF_SETTINGS, GIVEN = "0A:00:00:00:00:01", "0A:00:00:00:00:02"
ASLEEP = "http://127.0.0.1:9"


@dataclass
class Net:
    """A master whose nodes all sleep, and the loopback socket that hears its packets."""

    master: Program
    packets: socket.socket
    folder: Path

    def heard(self) -> bytes:
        return self.packets.recvfrom(2048)[0]


@pytest.fixture
def packets() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        yield listening


@pytest.fixture
async def net(tmp_path: Path, packets: socket.socket) -> AsyncIterator[Net]:
    env = {
        "COUNCIL_WAKE": f"pc2={OF_SETTINGS}",
        "COUNCIL_WAKE_ADDRESS": f"127.0.0.1:{packets.getsockname()[1]}",
    }
    nodes = {"pc2": ASLEEP, "pc3": "http://127.0.0.1:10"}
    async with processes.master(tmp_path / "master", nodes=nodes, env=env) as master:
        yield Net(master, packets, tmp_path)


async def test_a_pc_of_the_settings_is_sent_its_packet(net: Net) -> None:
    async with processes.client(net.master) as client:
        sent = await client.post("/api/cluster/workers/pc2/wake")
        assert (sent.status_code, sent.json()["mac"]) == (200, OF_SETTINGS)
        assert net.heard() == magic_packet(OF_SETTINGS)


async def test_a_pc_without_a_known_card_says_how_to_tell_it_and_then_it_is_kept(net: Net) -> None:
    async with processes.client(net.master) as client:
        unknown = await client.post("/api/cluster/workers/pc3/wake")
        assert unknown.status_code == 422
        assert "--mac" in unknown.json()["detail"]
        assert (await client.post("/api/cluster/workers/pc3/wake", json={"mac": GIVEN})).status_code == 200
        assert net.heard() == magic_packet(GIVEN)
        assert (await client.post("/api/cluster/workers/pc3/wake")).json()["mac"] == GIVEN
        wrong = await client.post("/api/cluster/workers/pc3/wake", json={"mac": "everybody"})
        assert wrong.status_code == 422
        assert (await client.post("/api/cluster/workers/nobody/wake")).status_code == 404


async def test_the_card_of_an_added_node_outlives_the_master(net: Net) -> None:
    async with processes.node(net.folder / "pc4", name="pc4") as node, processes.client(net.master) as client:
        added = await client.post(
            "/api/cluster/workers",
            json={"url": node.url, "name": "pc4", "mac": GIVEN.lower().replace(":", "-")},
        )
        assert (added.status_code, added.json()["mac"]) == (201, GIVEN)
    await net.master.stop()
    env = {"COUNCIL_WAKE_ADDRESS": f"127.0.0.1:{net.packets.getsockname()[1]}"}
    async with (
        processes.master(net.folder / "master", env=env) as master,
        processes.client(master) as client,
    ):
        assert (await client.post("/api/cluster/workers/pc4/wake")).json()["mac"] == GIVEN
        assert net.heard() == magic_packet(GIVEN)


async def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="COUNCIL_WAKE"):
        await processes.start_master(tmp_path / "master", env={"COUNCIL_WAKE": "pc2=tomorrow"})
