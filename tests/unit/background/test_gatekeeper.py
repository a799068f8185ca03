"""The gate's shell alone: it lets work pass, hears people at once, and learns when they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.master_settings import MasterSettings
from master.background.gatekeeper import HERE, Gatekeeper, rules_of
from master.background.pattern import HourOfWeek
from master.cluster.registry import Registry

SHORT = {
    "bg_idle_threshold_s": 0.1,
    "bg_long_idle_threshold_s": 0.2,
    "bg_max_cpu": 1.0,
    "bg_max_memory": 1.0,
}


class Kept:
    """A store of what was learned."""

    def __init__(self) -> None:
        self.hours: dict[int, HourOfWeek] = {3: HourOfWeek(1.0, 2.0)}

    async def list(self) -> dict[int, HourOfWeek]:
        return dict(self.hours)

    async def keep(self, hour: int, learned: HourOfWeek) -> None:
        self.hours[hour] = learned

    async def clear(self) -> None:
        self.hours.clear()


class Clock:
    """The clock on the wall, which a test may move."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime(2026, 6, 1, 9, 59, tzinfo=UTC) + self.ahead


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    found = Registry(heartbeat_s=1.0, connect_timeout_s=1.0)
    yield found
    await found.close()


def keeper(registry: Registry, folder: Path, **fields: object) -> Gatekeeper:
    settings = MasterSettings.model_validate({"data_dir": folder, **SHORT})
    return Gatekeeper(settings, registry, **fields)  # type: ignore[arg-type]


async def test_work_passes_once_this_machine_is_idle_and_known(registry: Registry, tmp_path: Path) -> None:
    gate = keeper(registry, tmp_path)
    async with gate.running(), asyncio.timeout(20):
        await gate.passed(HERE)
        await gate.passed()
        await gate.passed(long=True)
        assert gate.is_open
        assert gate.explain(HERE).startswith("open: nothing interactive for")


async def test_people_shut_the_gate_before_anything_else_happens(registry: Registry, tmp_path: Path) -> None:
    gate = keeper(registry, tmp_path)
    async with gate.running(), asyncio.timeout(20):
        await gate.passed()
        gate.hear()
        assert not gate.is_open
        with gate.changes() as changed:
            waiting = asyncio.create_task(gate.passed())
            await changed.wait()
            await waiting
        gate.begin_use()
        assert not gate.is_open
        assert gate.explain() == "waiting: an interactive call runs"
        gate.end_use()
        assert not gate.is_open


async def test_a_thousand_calls_cost_the_gate_next_to_nothing(registry: Registry, tmp_path: Path) -> None:
    gate = keeper(registry, tmp_path)
    started = time.process_time()
    for _ in range(10_000):
        gate.begin_use()
        gate.end_use()
    assert time.process_time() - started < 1.0


async def test_an_hour_that_ends_is_learned_and_kept(registry: Registry, tmp_path: Path) -> None:
    kept, clock = Kept(), Clock()
    gate = keeper(registry, tmp_path, store=kept, wall=clock)
    async with gate.running(), asyncio.timeout(20):
        gate.hear()
        while not gate.pattern._was_active:  # noqa: ASYNC110  # one turn of its loop
            await asyncio.sleep(0)
        clock.ahead = timedelta(minutes=2)
        gate.hear()
        gate._wake.set()
        while 9 not in kept.hours:  # noqa: ASYNC110  # what it writes to is the test's own
            await asyncio.sleep(0)
        assert kept.hours[9] == HourOfWeek(1.0, 1.0)
        assert gate.pattern.hours[3] == HourOfWeek(1.0, 2.0)
        await gate.forget_pattern()
        assert kept.hours == {}


@pytest.mark.parametrize(
    ("idle_s", "long_s", "expected"),
    [(300.0, 1800.0, (300.0, 1800.0, 60.0, 10.0, 20.0, 600.0)), (1.0, 0.5, (1.0, 1.0, 1.0, 0.5, 1.0, 2.0))],
    ids=["as users wrote it", "short"],
)
def test_a_short_idle_time_shortens_what_follows_from_it(
    idle_s: float, long_s: float, expected: tuple[float, ...]
) -> None:
    settings = MasterSettings.model_validate(
        {"bg_idle_threshold_s": idle_s, "bg_long_idle_threshold_s": long_s}
    )
    rules = rules_of(settings)
    assert expected == (
        rules.idle_s, rules.long_s, rules.caps.steady_s, rules.active_s, rules.least_back_off_s,
        rules.most_back_off_s,
    )  # fmt: skip
