"""A node whose clock is an hour fast or slow joins, serves and is shown as any other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.service.chaos.clocks import node_with_clock
from tests.service.lan.lan import LanMaster, lan_master
from tests.service.master.rig import CHAIRMAN, assert_full, assert_honest, model
from tests.standin import StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR_S = 3600
OFF = [
    # Certificates are not valid yet for who is slow; nothing here is likelier to break for who is fast.
    pytest.param(-HOUR_S, id="an-hour-slow"),
    pytest.param(HOUR_S, id="an-hour-fast", marks=pytest.mark.long),
]
SEATS = ["m1", "m2", "m1"]
BODY = {"question": "What time is it?", "selected_agents": SEATS, "chairman": CHAIRMAN}
PARTS = ("queue_ms", "load_ms", "prompt_ms", "generate_ms", "network_ms", "first_token_ms", "total_ms")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def master(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LanMaster]:
    async with lan_master(tmp_path_factory.mktemp("clocks") / "master") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def standin() -> AsyncIterator[StandInOllama]:
    models = [model(name, token_ms=2) for name in ("m1", "m2", CHAIRMAN)]
    async with StandInOllama(models, slots=4, max_loaded=4) as running:
        yield running


def at(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def told_times(log: Path) -> list[float]:
    """The times on a program's log lines."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    return [at(json.loads(line)["timestamp"]) for line in lines]


async def council(master: LanMaster) -> dict[str, Any]:
    answer = await master.admin.post("/api/council/sessions?wait=true&wait_s=60", json=BODY)
    assert answer.status_code == 201, answer.text
    session: dict[str, Any] = answer.json()
    return session


@pytest.mark.parametrize("shift_s", OFF)
async def test_a_node_with_a_wrong_clock_joins_serves_and_comes_back(
    master: LanMaster, standin: StandInOllama, tmp_path: Path, shift_s: int
) -> None:
    name = "fast" if shift_s > 0 else "slow"
    engine = {"OLLAMA_BASE_URL": standin.base_url, "COUNCIL_NODE_ENGINE": "ollama"}
    joining = ("--join", master.url, "--token", await master.token(ttl_s=60), "--host", "0.0.0.0")
    began = time.time()
    async with node_with_clock(shift_s, tmp_path / "n", *joining, "--name", name, env=engine) as node:
        await master.until(name, "healthy")
        clock = told_times(node.log)
        assert clock
        assert all(abs(one - began - shift_s) < 120 for one in clock), "the clock of the test is not wrong"
        session = await council(master)
        assert_honest(session)
        assert_full(session)
        assert began <= at(session["created_at"]) <= at(session["completed_at"]) <= time.time() + 1
        for stage in ("stage1_opinions", "stage2_review", "stage3_synthesis"):
            for seat in session["latency_stats"][stage]["by_agent"].values():
                assert seat["node"] == name
                assert all(0 <= seat[part] < 60_000 for part in PARTS), seat
        async with asyncio.timeout(20):
            while True:
                shown = (await master.admin.get(f"/api/cluster/workers/{name}")).json()
                if shown["history"]:
                    break
                await asyncio.sleep(0.1)
        assert all(began - 1 <= one["at"] <= time.time() + 1 for one in shown["history"])
        assert (shown["state"], shown["reason"]) == ("healthy", None)
    # It is told its master's address again after a restart: both certificates are judged anew.
    async with node_with_clock(shift_s, tmp_path / "n", env=engine) as node:
        await master.until(name, "healthy")
        assert_full(await council(master))
    assert (await master.admin.delete(f"/api/cluster/workers/{name}")).status_code == 204


@pytest.mark.parametrize("shift_s", OFF)
async def test_only_the_masters_clock_decides_whether_a_token_is_too_old(
    master: LanMaster, standin: StandInOllama, tmp_path: Path, shift_s: int
) -> None:
    token = await master.token(ttl_s=1)
    await asyncio.sleep(1.1)  # the claim is about this time
    joining = ("--join", master.url, "--token", token, "--host", "0.0.0.0")
    engine = {"OLLAMA_BASE_URL": standin.base_url, "COUNCIL_NODE_ENGINE": "ollama"}
    with pytest.raises(RuntimeError, match="too old"):
        async with node_with_clock(shift_s, tmp_path / "n", *joining, env=engine):
            pass
