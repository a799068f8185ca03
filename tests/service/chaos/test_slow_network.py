"""A link with latency, a narrow one, one that is cut and one that goes silent, between master and node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.service.chaos import fleet as fleets
from tests.service.chaos.fleet import Fleet
from tests.service.chaos.judge import judge_fleet
from tests.service.chaos.slow_link import SlowLink
from tests.service.master.rig import CHAIRMAN, assert_full, model
from tests.standin import StandInModel

SEATS = ["m1", "m2", "m3"]
BODY = {"question": "How far is it?", "selected_agents": SEATS, "chairman": CHAIRMAN}


def models(**changes: Any) -> list[StandInModel]:
    return [model(name, **changes) for name in (*SEATS, CHAIRMAN)]


@asynccontextmanager
async def linked(
    folder: Path, link: Mapping[str, Any], *, others: tuple[str, ...] = (), token_ms: float = 20
) -> AsyncIterator[tuple[Fleet, SlowLink]]:
    """A fleet whose node `far` is reached over a link; others stand beside the master."""
    async with AsyncExitStack() as stack:
        own = {name: models(token_ms=token_ms) for name in ("far", *others)}
        heartbeat = {"COUNCIL_HEARTBEAT_S": "0.5"}
        wide = {"COUNCIL_NODE_CONTEXT": "65536"}
        fleet = await stack.enter_async_context(fleets.prepared(folder, own, env=heartbeat, node_env=wide))
        far = SlowLink("127.0.0.1", fleet.nodes["far"].port)
        await stack.enter_async_context(far.open())
        fleet.addresses = {"far": far.url}
        await fleet.start_master()
        await fleet.settle()
        for name, value in link.items():
            setattr(far, name, value)
        yield fleet, far


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


@pytest.mark.parametrize(
    "link", [{"latency_s": 0.2}, {"bytes_per_s": 20_000.0}], ids=["200-ms-each-way", "20-kB-per-s"]
)
async def test_a_slow_link_makes_a_council_slower_and_nothing_else(
    tmp_path: Path, link: dict[str, Any]
) -> None:
    async with linked(tmp_path, link, token_ms=10) as (fleet, _):
        session_id = await fleet.ask(BODY)
        async with asyncio.timeout(60):
            events = await fleet.follow(session_id)
        session = await fleet.get(session_id)
        assert_full(session)
        assert of_type(events, "call.restarted") == of_type(events, "call.failed") == []
        judge_fleet(fleet, {session_id: SEATS}, {session_id: session})
        assert (await fleet.workers())["far"]["state"] == "healthy"
    if "latency_s" in link:
        stages = session["latency_stats"]
        for stage in ("stage1_opinions", "stage2_review", "stage3_synthesis"):
            for seat in stages[stage]["by_agent"].values():
                assert 350 <= seat["network_ms"] < seat["total_ms"], seat


@pytest.mark.long
async def test_a_long_question_over_a_narrow_link_is_not_taken_for_a_frozen_node(tmp_path: Path) -> None:
    """60 kB to each of three seats: at 20 kB/s the node hears the last of it after nine seconds."""
    body = {**BODY, "question": "How far is it? " * 4000}
    async with linked(tmp_path, {"bytes_per_s": 20_000.0}) as (fleet, _):
        session_id = await fleet.ask(body)
        async with asyncio.timeout(110):
            events = await fleet.follow(session_id)
        session = await fleet.get(session_id)
    assert of_type(events, "call.restarted") == of_type(events, "call.failed") == []
    assert_full(session)


async def test_a_link_cut_in_mid_answer_costs_a_restart_and_nothing_else(tmp_path: Path) -> None:
    async with linked(tmp_path, {}, others=("near",)) as (fleet, link):
        session_id = await fleet.ask(BODY)
        link.cut_after = 600
        async with asyncio.timeout(60):
            events = await fleet.follow(session_id)
        session = await fleet.get(session_id)
        assert link.cuts == 1
        assert_full(session)
        judge_fleet(fleet, {session_id: SEATS}, {session_id: session})
        assert {one["reason"] for one in of_type(events, "call.restarted")} <= {
            "stream_cut",
            "node_unreachable",
        }
        await fleet.engines_fall_idle()


@pytest.mark.long
async def test_a_link_that_goes_silent_in_mid_answer_is_found_and_the_call_runs_elsewhere(
    tmp_path: Path,
) -> None:
    async with linked(tmp_path, {}, others=("near",), token_ms=60) as (fleet, link):
        session_id = await fleet.ask(BODY)
        following = asyncio.create_task(fleet.follow(session_id))
        async with asyncio.timeout(20):
            await fleet.nodes["far"].engine.until(
                lambda engine: any(call.tokens_sent >= 3 for call in engine.log)
            )
        link.stall()
        since = time.monotonic()
        async with asyncio.timeout(60):
            events = await following
        took_s = time.monotonic() - since
        session = await fleet.get(session_id)
        assert_full(session)
        judge_fleet(fleet, {session_id: SEATS}, {session_id: session})
        restarted = of_type(events, "call.restarted")
        assert {one["reason"] for one in restarted} == {"node_frozen"}
        assert {(one["from_node"], one["to_node"]) for one in restarted} == {("far", "near")}
        assert took_s < 15
        await fleet.until("far", "unreachable")
        # The node's own side ends, too, and with the link it is there again.
        await fleet.engines_fall_idle()
        link.resume()
        await fleet.until("far", "healthy")
        assert_full(await fleet.council(BODY))
