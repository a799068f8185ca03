"""Engines that die and freeze beneath nodes that live on, with councils upon them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.chaos import fleet as fleets
from tests.service.chaos.engine_process import EngineProcess
from tests.service.chaos.judge import assert_all_served, judge_fleet
from tests.service.chaos.storm import SEED_VARIABLE, Storm, seed
from tests.service.chaos.test_storm import hold, tell
from tests.service.master.rig import CHAIRMAN, assert_full, model

__all__ = ["tell"]  # a fixture

SEATS = ("m1", "m2", "m3", "m4")
BODY = {"question": "And now?", "selected_agents": list(SEATS), "chairman": CHAIRMAN}
# Shorter than an engine stays frozen, so that calls move away from it.
QUICK = {"COUNCIL_STALL_TIMEOUT_S": "4", "COUNCIL_FIRST_TOKEN_TIMEOUT_S": "5"}
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


def engines_of(fleet: fleets.Fleet) -> dict[str, EngineProcess]:
    return {name: node.engine for name, node in fleet.nodes.items() if isinstance(node.engine, EngineProcess)}


async def test_councils_outlive_engines_that_are_killed_frozen_and_stopped(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    tell(f"{SEED_VARIABLE}={seed()}")
    models = {name: [model(one, token_ms=40) for one in (*SEATS, CHAIRMAN)] for name in ("pc2", "pc3", "pc4")}
    async with fleets.running(tmp_path, models, env=QUICK, engine_of=EngineProcess) as fleet:
        storm = Storm(engines_of(fleet), seed(), longest_s=8.0)
        async with storm.raging():
            held = await hold(fleet, 40, 8, seed())
        await fleet.settle()
        shown = {one: await fleet.get(one) for one in held}
        await fleet.engines_fall_idle()
        ended = judge_fleet(fleet, held, shown)
        tell(f"{dict(ended)} after {dict(storm.dealt)}")
        assert_all_served(ended, 40)
        assert set(storm.dealt) == {"kill", "freeze", "stop"}
        assert_full(await fleet.council(BODY))


async def test_an_engine_frozen_for_good_costs_its_calls_a_restart_and_its_node_no_more_calls(
    tmp_path: Path,
) -> None:
    models = {name: [model(one, token_ms=100) for one in (*SEATS, CHAIRMAN)] for name in ("pc2", "pc3")}
    async with fleets.running(tmp_path, models, env=QUICK, engine_of=EngineProcess) as fleet:
        session_id = await fleet.ask(BODY)
        engines = engines_of(fleet)
        async with asyncio.timeout(20):
            await engines["pc2"].until(lambda one: any(one.counters.in_flight.values()))
        engines["pc2"].freeze()
        since = time.monotonic()
        try:
            async with asyncio.timeout(60):
                events = await fleet.follow(session_id)
            assert time.monotonic() - since < 30
            assert_full(await fleet.get(session_id))
            restarted = [event for event in events if event["type"] == "call.restarted"]
            assert restarted
            assert {event["from_node"] for event in restarted} == {"pc2"}
            await fleet.until("pc2", "unhealthy", "unreachable")
            session = await fleet.council(BODY)
            assert_full(session)
            assert {agent["node"] for agent in session["agents"]} == {"pc3"}
        finally:
            engines["pc2"].thaw()
        await fleet.until("pc2", "healthy")
        assert_full(await fleet.council(BODY))
