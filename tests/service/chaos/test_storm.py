"""Many councils at once while nodes are killed, frozen, stopped and restarted, and once the master too."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.service.chaos import fleet as fleets
from tests.service.chaos.fleet import Fleet
from tests.service.chaos.judge import assert_all_served, judge_fleet
from tests.service.chaos.storm import SEED_VARIABLE, Storm, seed
from tests.service.master.rig import CHAIRMAN, assert_full, model

NODES = ("pc2", "pc3", "pc4", "pc5")
SEATS = ("m1", "m2", "m3", "m4")
# Every model is on three of the four.
WITHOUT = {"pc2": "m1", "pc3": "m2", "pc4": "m3", "pc5": "m4"}
MODELS = {
    node: [model(name, token_ms=30) for name in (*SEATS, CHAIRMAN) if name != WITHOUT[node]] for node in NODES
}


async def hold(fleet: Fleet, sessions: int, at_once: int, number: int) -> dict[str, list[str]]:
    """Ask so many questions and watch each to its end; session id → seats."""
    held: dict[str, list[str]] = {}
    turns = asyncio.Semaphore(at_once)
    chance = random.Random(f"questions/{number}")
    plans = [[chance.choice(SEATS) for _ in range(chance.randint(2, 4))] for _ in range(sessions)]

    async def one(index: int, seats: list[str]) -> None:
        async with turns:
            body = {"question": f"Question {index}?", "selected_agents": seats, "chairman": CHAIRMAN}
            session_id = await fleet.ask(body, key=f"question {index}")
            assert session_id not in held
            held[session_id] = seats
            events = await fleet.follow(session_id)
            assert events[-1]["type"] in ("session.completed", "session.failed", "snapshot")

    async with asyncio.TaskGroup() as group:
        for index, seats in enumerate(plans):
            group.create_task(one(index, seats))
    return held


async def half_ended(fleet: Fleet, sessions: int) -> None:
    while True:
        if sum(row["over"] for row in fleet.rows("sessions")) >= sessions // 2:
            return
        await asyncio.sleep(0.2)


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says something to who runs the tests, captured or not: a seed has to be known to be used again."""

    def say(text: str) -> None:
        with capfd.disabled():
            sys.stderr.write(f"\n{text}\n")

    return say


async def weather(
    folder: Path,
    sessions: int,
    at_once: int,
    *,
    nodes: Sequence[str] = NODES,
    kill_master: bool = False,
    longest_s: float = 8.0,
) -> tuple[Counter[str], Storm]:
    """Hold the councils in a storm and judge them all; how they ended, and what was dealt."""
    number = seed()
    async with fleets.running(folder, {name: MODELS[name] for name in nodes}) as fleet:
        storm = Storm(fleet.nodes, number, longest_s)
        async with storm.raging(), asyncio.TaskGroup() as group:
            asked = group.create_task(hold(fleet, sessions, at_once, number))
            if kill_master:
                await half_ended(fleet, sessions)
                await fleet.kill_master()
                await fleet.start_master()
        held = asked.result()
        assert len(held) == sessions
        await fleet.settle()
        shown = {one: await fleet.get(one) for one in held}
        await fleet.engines_fall_idle()
        ended = judge_fleet(fleet, held, shown)
        # All is well again: nobody needs to restart anything.
        body = {"question": "And now?", "selected_agents": list(SEATS), "chairman": CHAIRMAN}
        assert_full(await fleet.council(body))
    return ended, storm


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kill_master", [False, True], ids=["nodes", "nodes-and-master"])
async def test_a_hundred_councils_in_a_storm_all_end_whole_and_honest(
    tmp_path: Path, kill_master: bool, tell: Callable[[str], None]
) -> None:
    tell(f"{SEED_VARIABLE}={seed()}")
    ended, storm = await weather(tmp_path, 100, 12, kill_master=kill_master)
    tell(f"{dict(ended)} after {dict(storm.dealt)}")
    assert_all_served(ended, 100)
    assert ended["full"] >= 50
    assert set(storm.dealt) == {"kill", "freeze", "stop"}


@pytest.mark.timeout(300)  # for a machine with much else to do
async def test_ten_councils_in_a_short_storm_all_end_whole_and_honest(tmp_path: Path) -> None:
    ended, storm = await weather(tmp_path, 10, 10, nodes=NODES[:2], longest_s=1.0)
    assert_all_served(ended, 10)
    assert storm.dealt.total() > 0
