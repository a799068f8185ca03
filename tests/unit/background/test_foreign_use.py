"""What of a machine is used by others: told twice, ours subtracted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.host import own_use, running, system_health
from master.background.foreign_use import ForeignUse, Own
from master.background.host_holds import HostSample

GB = 10**9


def told(busy: float, *, node: float = 0.0, engine: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {
        "cpu": {"percent": 50.0, "count": 4, "busy_seconds": busy},
        "memory": {"total": 16 * GB, "available": 8 * GB},
        "process": {"processes": 1, "cpu_seconds": node, "private_bytes": GB},
        "engines": {"main": {"processes": 2, "cpu_seconds": engine, "private_bytes": 3 * GB}},
        **fields,
    }


def second(first: dict[str, Any], then: dict[str, Any], **fields: Any) -> HostSample:
    use = ForeignUse()
    assert use.read(100.0, first, **fields) is None
    found = use.read(110.0, then, **fields)
    assert found is not None
    return found


def test_cpu_of_others_is_what_is_busy_without_node_and_engine() -> None:
    found = second(told(1000.0, node=5.0, engine=50.0), told(1030.0, node=6.0, engine=69.0))
    assert found.foreign_cpu == pytest.approx((30 - 1 - 19) / (10 * 4))


def test_memory_of_others_is_what_is_not_available_without_what_is_ours_alone() -> None:
    found = second(told(0.0), told(1.0))
    assert found.foreign_memory == pytest.approx((16 - 8 - 1 - 3) / 16)
    assert found.free_memory == pytest.approx(0.5)


def test_what_further_processes_of_ours_take_is_subtracted_too() -> None:
    use = ForeignUse()
    use.read(0.0, told(0.0), own=Own(7.0, GB))
    found = use.read(10.0, told(20.0), own=Own(17.0, GB))
    assert found is not None
    assert found.foreign_cpu == pytest.approx(10 / 40)
    assert found.foreign_memory == pytest.approx(3 / 16)


def test_an_engine_that_cannot_be_seen_leaves_the_cpu_unknown_while_calls_run() -> None:
    unseen: dict[str, Any] = {"engines": {"main": {"processes": 0, "cpu_seconds": 0.0, "private_bytes": 0}}}
    assert second(told(0.0, **unseen), told(39.0, **unseen), calls=1).foreign_cpu is None
    assert second(told(0.0, **unseen), told(39.0, **unseen)).foreign_cpu == pytest.approx(0.975)
    assert second(told(0.0), told(39.0), calls=1).foreign_cpu == pytest.approx(0.975)


def test_an_engine_that_began_anew_leaves_one_gap_and_a_machine_that_did_is_read_afresh() -> None:
    use = ForeignUse()
    use.read(0.0, told(100.0, engine=50.0))
    gap = use.read(10.0, told(110.0, engine=1.0))
    assert gap is not None
    assert gap.foreign_cpu is None
    after = use.read(20.0, told(120.0, engine=6.0))
    assert after is not None
    assert after.foreign_cpu == pytest.approx(5 / 40)
    assert use.read(30.0, told(3.0)) is None
    assert use.read(40.0, told(7.0)) is not None


def test_readings_too_near_to_each_other_say_nothing_of_the_cpu() -> None:
    use = ForeignUse()
    use.read(0.0, told(0.0))
    near = use.read(0.01, told(0.04))
    assert near is not None
    assert near.foreign_cpu is None


def test_a_node_of_an_older_version_is_judged_by_its_whole_cpu() -> None:
    old = {"cpu": {"percent": 37.0, "count": 4}, "memory": {"total": 10, "available": 4}}
    found = ForeignUse().read(0.0, old)
    assert found == HostSample(0.37, 0.6, 0.4)


@pytest.mark.parametrize(
    ("battery", "on_battery"),
    [(None, False), ({"plugged": True}, False), ({"plugged": False}, True), ({"plugged": None}, False)],
    ids=["none", "mains", "battery", "untold"],
)
def test_battery_and_exclusive_programs_are_passed_on(
    battery: dict[str, Any] | None, on_battery: bool
) -> None:
    found = second(told(0.0), told(1.0, battery=battery, exclusive=["blender"]))
    assert (found.on_battery, found.exclusive) == (on_battery, ("blender",))


def test_this_machine_is_told_in_this_form() -> None:
    use = ForeignUse()

    mine = {"main": [os.getpid()]}
    assert use.read(0.0, system_health(Path(), mine)) is None
    found = use.read(1.0, system_health(Path(), mine), own=Own(**own_use()))
    assert found is not None
    assert found.free_memory is not None


def test_programs_are_found_by_name_in_any_case() -> None:

    here = psutil.Process().name()
    assert running([here.upper(), "no-such-program"]) == [here.upper()]
    assert running([]) == []
