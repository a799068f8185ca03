"""CPU and memory by the minute: what each part took, side by side, in percent of its machine."""

from __future__ import annotations

from typing import Any

import pytest

from master.cluster.usage_minutes import UsageMinute, UsageMinutes, Use, charted, step_for

START = 1_800_000_000.0 - 1_800_000_000.0 % 60


def told(second: float, *, main: float = 0.5, background: float = 0.25) -> dict[str, Any]:
    """After `second` seconds of a machine with 4 cores, where engines use so many cores all the time."""
    return {
        "cpu": {"percent": 99.0, "count": 4, "busy_seconds": second * 2.0},
        "memory": {"total": 16_000, "available": 10_000},
        "process": {"processes": 1, "cpu_seconds": second * 0.04, "resident_bytes": 90},
        "engines": {
            "main": {"processes": 2, "cpu_seconds": second * main, "resident_bytes": 4_000},
            "background": {"processes": 1, "cpu_seconds": second * background, "resident_bytes": 2_000},
            "elsewhere": {"processes": 0, "cpu_seconds": 0.0, "resident_bytes": 0},
        },
    }


def watched(seconds: int, every_s: int = 15) -> UsageMinutes:
    minutes = UsageMinutes()
    for second in range(0, seconds, every_s):
        minutes.add("pc2", START + second, told(second))
    return minutes


def test_each_part_is_told_in_percent_of_the_whole_machine() -> None:
    assert watched(30).latest["pc2"] == {
        "machine": Use(50.0, 6_000),
        "node": Use(1.0, 90),
        "main": Use(12.5, 4_000),
        "background": Use(6.2, 2_000),
    }


def test_a_minute_that_is_over_is_given_once_with_its_mean_and_its_highest() -> None:
    minutes = UsageMinutes()
    for second, busy in ((0, 0.0), (15, 15.0), (30, 45.0), (45, 60.0), (60, 60.0)):
        system = told(second)
        system["engines"]["main"]["cpu_seconds"] = busy
        minutes.add("pc2", START + second, system)
    taken = {one.part: one for one in minutes.take(START + 61)}
    assert taken["main"] == UsageMinute("pc2", "main", int(START), 33.3, 50.0, 4_000)
    assert minutes.take(START + 61) == []
    assert {one.at for one in minutes.untold()} == {int(START) + 60}
    rest = minutes.take(START + 61, unfinished=True)
    assert {one.at for one in rest} == {int(START) + 60}


def test_what_could_not_be_stored_is_given_again() -> None:
    minutes = watched(61)
    rows = minutes.take(START + 61)
    minutes.untaken(rows)
    assert minutes.take(START + 61) == rows


def test_an_engine_that_began_anew_leaves_a_gap_and_no_nonsense() -> None:
    minutes = watched(30)
    system = told(30)
    system["engines"]["main"]["cpu_seconds"] = 0.1
    minutes.add("pc2", START + 30, system)
    assert minutes.latest["pc2"]["main"] == Use(None, 4_000)


def test_a_node_of_an_older_version_tells_what_it_can() -> None:
    minutes = UsageMinutes()
    minutes.add("pc2", START, {"cpu": {"percent": 37.0, "count": 4}})
    assert minutes.latest["pc2"]["machine"] == Use(37.0, None)


@pytest.mark.parametrize(("hours", "step_s"), [(0.5, 60), (12, 60), (12.1, 120), (24, 120)])
def test_a_chart_has_720_points_at_most(hours: float, step_s: int) -> None:
    assert step_for(hours) == step_s
    assert hours * 3600 / step_for(hours) <= 720


def test_points_are_thinned_by_mean_and_highest() -> None:
    rows = [
        UsageMinute("pc2", "main", 0, 10.0, 20.0, 5),
        UsageMinute("pc2", "main", 60, 30.0, 90.0, 9),
        UsageMinute("pc2", "main", 120, None, None, 7),
        UsageMinute("pc1", "machine", 0, 1.0, 1.0, None),
    ]
    assert charted(rows, step_s=120) == [
        {
            "node": "pc1",
            "parts": {"machine": {"at": [0], "cpu_percent": [1.0], "cpu_max": [1.0], "memory_bytes": [None]}},
        },
        {
            "node": "pc2",
            "parts": {
                "main": {
                    "at": [0, 120],
                    "cpu_percent": [20.0, None],
                    "cpu_max": [90.0, None],
                    "memory_bytes": [9, 7],
                }
            },
        },
    ]
