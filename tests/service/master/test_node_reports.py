"""What the master tells of its nodes: their load, their errors, their speeds, and what is wrong with them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.service.master import rig
from tests.service.master.rig import Rig, assert_full
from tests.standin import Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig.running(tmp_path_factory.mktemp("reports"), nodes=("pc1", "pc2")) as found:
        yield found


async def shown(cluster: Rig, name: str) -> dict[str, Any]:
    response = await cluster.client.get(f"/api/cluster/workers/{name}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def master_health(cluster: Rig) -> dict[str, Any]:
    found: dict[str, Any] = (await cluster.client.get("/health")).json()
    return found


async def test_a_node_is_shown_with_its_machine_and_how_busy_it_was(cluster: Rig) -> None:
    async with asyncio.timeout(20):
        while not (one := await shown(cluster, "pc2"))["history"]:
            continue
    assert one["system"]["gpus"] == [] or one["system"]["gpus"][0]["memory_total"] > 0
    newest = one["history"][-1]
    assert 0 <= newest["cpu_percent"] <= 100
    assert 0 < newest["memory_percent"] <= 100
    assert set(newest["engines"]) == {"main"}
    assert (one["reason"], one["error"]) == (None, None)


async def test_what_machines_and_engines_take_is_told_side_by_side(cluster: Rig) -> None:
    async def told() -> dict[str, Any]:
        answer = await cluster.client.get("/api/cluster/usage", params={"hours": 1})
        return {one["node"]: one["parts"] for one in answer.json()["nodes"]}

    here = f"master on {socket.gethostname()}"[:63]
    async with asyncio.timeout(20):
        while not (
            {"pc1", "pc2", here} <= (nodes := await told()).keys()
            and nodes["pc2"]["main"]["cpu_percent"][-1] is not None
        ):
            continue
    assert set(nodes["pc2"]) == {"machine", "main", "node"}
    assert set(nodes[here]) == {"machine", "master"}
    for parts in nodes.values():
        for columns in parts.values():
            assert len({len(column) for column in columns.values()}) == 1
            assert columns["memory_bytes"][-1] > 0
            assert all(0 <= cpu <= 100 for cpu in columns["cpu_percent"] if cpu is not None)
    now = (await cluster.client.get("/health/system")).json()["nodes"]
    assert now["pc2"]["main"]["memory_bytes"] > 0
    assert 'council_cpu_percent{node="pc2",part="main"}' in (await cluster.client.get("/metrics")).text
    one = await cluster.client.get("/api/cluster/usage", params={"node": "pc1"})
    assert [each["node"] for each in one.json()["nodes"]] == ["pc1"]
    assert (await cluster.client.get("/api/cluster/usage", params={"hours": 25})).status_code == 422


async def test_calls_and_failures_of_the_last_hour_are_counted_by_node(cluster: Rig) -> None:
    assert_full(await cluster.council())
    cluster.standin.add_faults(Fault("cut", model="m1", after_tokens=3, has_format=False, times=None))
    await cluster.council()
    calls = [(await shown(cluster, name))["calls"] for name in ("pc1", "pc2")]
    done, failed = sum(one["done"] for one in calls), sum(one["failed"] for one in calls)
    assert done >= 7 + 4  # a whole council of three, and what the second one could do
    assert failed >= 1
    assert any("stream_cut" in one["errors"] for one in calls)
    for one in calls:
        assert one["error_rate"] is None or 0 <= one["error_rate"] <= 1
        assert sum(one["errors"].values()) == one["failed"]


async def test_a_dead_node_is_named_with_its_reason_and_is_well_again_when_it_is_back(cluster: Rig) -> None:
    cluster.nodes["pc2"].freeze()
    try:
        async with asyncio.timeout(20):
            while "node pc2" not in (checks := await master_health(cluster))["checks"]:
                continue
        assert checks["status"] == "degraded"
        assert "unreachable: no answer for" in checks["checks"]["node pc2"]
        assert cluster.nodes["pc2"].url.rpartition(":")[2] not in str(checks)
        assert "node pc1" not in checks["checks"]
        listed = (await cluster.client.get("/api/cluster/workers")).json()["workers"]
        reasons = {one["name"]: one["reason"] for one in listed}
        assert reasons["pc1"] is None
        assert reasons["pc2"].startswith("unreachable")
    finally:
        cluster.nodes["pc2"].thaw()
    await cluster.settle()
    assert "node pc2" not in (await master_health(cluster))["checks"]


async def test_a_draining_node_is_said_and_degrades_nothing(cluster: Rig) -> None:
    await cluster.client.post("/api/cluster/workers/pc2/drain")
    try:
        health = await master_health(cluster)
        assert health["status"] == "healthy"
        assert "draining" in health["checks"]["node pc2"]
    finally:
        await cluster.client.post("/api/cluster/workers/pc2/resume")
