"""Minutes of use are kept for a day and over a restart; so is when people are there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from master.background.pattern import HourOfWeek
from master.cluster.usage_minutes import UsageMinute
from master.state.store import Store


def minute(at: int, node: str = "pc2", cpu: float | None = 12.5) -> UsageMinute:
    return UsageMinute(node, "main", at, cpu, cpu, 5_000_000_000)


async def test_minutes_are_kept_over_a_restart_and_pruned_by_their_age(address: str, tmp_path: Path) -> None:
    store = await Store.open(address, data_dir=tmp_path)
    await store.usage.keep([minute(60), minute(120, cpu=None), minute(120, "pc3")])
    await store.usage.keep([minute(60, cpu=99.0)])  # the same minute, after a restart within it
    await store.usage.keep([])
    await store.close()
    store = await Store.open(address, data_dir=tmp_path)
    assert await store.usage.since(0, node="pc2") == [minute(60, cpu=99.0), minute(120, cpu=None)]
    assert len(await store.usage.since(100)) == 2
    await store.usage.prune(120)
    assert [one.at for one in await store.usage.since(0)] == [120, 120]
    await store.close()


async def test_what_was_learned_of_people_is_kept_and_forgotten_on_demand(store: Store) -> None:
    await store.activity.keep(9, HourOfWeek(1.0, 1.0))
    await store.activity.keep(9, HourOfWeek(1.75, 1.75))
    assert await store.activity.list() == {9: HourOfWeek(1.75, 1.75)}
    await store.activity.clear()
    assert await store.activity.list() == {}


async def test_masters_that_keep_the_same_minute_at_once_do_not_hinder_each_other(store: Store) -> None:
    rows = [minute(60 * number, node) for number in range(20) for node in ("pc1", "pc2")]
    await asyncio.gather(
        *(store.usage.keep(rows if turn % 2 else rows[::-1]) for turn in range(6)),
        *(store.activity.keep(9, HourOfWeek(float(turn), 6.0)) for turn in range(6)),
    )
    assert len(await store.usage.since(0)) == 40
    assert list(await store.activity.list()) == [9]
