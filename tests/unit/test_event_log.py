"""The event log: every watcher has every event exactly once, however often it comes back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from master.council.events import EventLog, TooSlowError


def make_log(head: int = 0, held: int = 20_000) -> EventLog:
    log = EventLog(
        "s", head=head, snapshot=lambda: {"session": {}, "partial": {}}, on_low=lambda: None, held=held
    )
    log.grant(head + 10_000)
    return log


async def everything(log: EventLog, after: int) -> list[dict[str, Any]]:
    return [json.loads(data) async for _, data in log.watch(after)]


async def test_a_watcher_from_the_start_hears_every_event_and_no_snapshot() -> None:
    log = make_log()
    for number in range(3):
        log.publish({"type": "warning", "text": str(number)})
    log.end()
    assert [(one["seq"], one["type"]) for one in await everything(log, 0)] == [
        (1, "warning"),
        (2, "warning"),
        (3, "warning"),
    ]


async def test_a_snapshot_has_the_number_of_the_last_event_and_the_next_is_one_more() -> None:
    log = make_log()
    log.publish({"type": "warning", "text": "before"})
    watching = asyncio.create_task(everything(log, 7))
    await asyncio.sleep(0)
    log.publish({"type": "warning", "text": "after"})
    log.end()
    assert [(one["seq"], one["type"]) for one in await watching] == [(1, "snapshot"), (2, "warning")]


@pytest.mark.parametrize("after", [99, 5])
async def test_a_number_beyond_the_head_or_no_longer_held_gets_a_snapshot(after: int) -> None:
    log = make_log(held=10)
    for number in range(30):
        log.publish({"type": "warning", "text": str(number)})
    log.end()
    assert [(one["seq"], one["type"]) for one in await everything(log, after)] == [(30, "snapshot")]


async def test_a_fresh_block_opens_with_a_snapshot_whatever_the_watcher_saw() -> None:
    for after in (0, 7, 10_001, 10_002):
        log = make_log(head=10_001)
        log.end()
        events = await everything(log, after)
        assert [(one["seq"], one["type"]) for one in events] == [(10_001, "snapshot")]


async def test_fifty_drops_with_after_lose_and_repeat_nothing() -> None:
    log = make_log()
    seen: list[int] = []

    async def watch_in_pieces() -> None:
        while not (seen and log.is_past_end(seen[-1])):
            watcher = log.watch(seen[-1] if seen else 0)
            try:
                for _ in range(4):
                    seen.append((await anext(watcher))[0])
            except StopAsyncIteration:
                return
            finally:
                await watcher.aclose()  # type: ignore[attr-defined]  # an async generator

    watching = asyncio.create_task(watch_in_pieces())
    for number in range(203):
        log.publish({"type": "warning", "text": str(number)})
        if number % 3 == 0:
            await asyncio.sleep(0)
    log.end()
    await watching
    assert seen == list(range(1, 204))


async def test_a_watcher_that_falls_behind_what_is_held_is_told() -> None:
    log = make_log(held=5)
    log.publish({"type": "warning", "text": "first"})
    watcher = log.watch(0)
    assert (await anext(watcher))[0] == 1
    for number in range(20):
        log.publish({"type": "warning", "text": str(number)})
    with pytest.raises(TooSlowError):
        await anext(watcher)


async def test_numbers_are_asked_for_well_before_they_run_out() -> None:
    asked: list[int] = []
    log = EventLog("s", head=0, snapshot=dict, on_low=lambda: asked.append(log.head))
    log.grant(10_000)
    for number in range(6_000):
        log.publish({"type": "warning", "text": str(number)})
    assert asked[0] == 5_001
