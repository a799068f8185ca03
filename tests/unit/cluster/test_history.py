"""An hour of a machine's load, bounded whatever comes in."""

from __future__ import annotations

from typing import Any

from master.cluster.history import EVERY_S, KEPT_S, History


def system(*, cpu: float = 10.0, cpu_seconds: float | None = None, **more: Any) -> dict[str, Any]:
    engines = {} if cpu_seconds is None else {"main": {"resident_bytes": 7, "cpu_seconds": cpu_seconds}}
    return {"cpu": {"percent": cpu}, "memory": {"percent": 50.0}, "engines": engines, **more}


def test_a_sample_is_due_every_fifteen_seconds() -> None:
    history = History()
    assert history.is_due(100.0)
    history.add(100.0, system())
    assert not history.is_due(100.0 + EVERY_S - 0.1)
    assert history.is_due(100.0 + EVERY_S)


def test_an_hour_is_kept_and_no_more() -> None:
    history = History()
    for number in range(1000):
        history.add(number * EVERY_S, system(cpu=float(number)))
    assert len(history.samples) == KEPT_S / EVERY_S
    assert history.samples[-1]["cpu_percent"] == 999.0
    assert history.samples[-1]["at"] - history.samples[0]["at"] <= KEPT_S


def test_a_node_that_slept_forgets_what_was_before() -> None:
    history = History()
    history.add(0.0, system())
    history.add(KEPT_S * 5, system())
    assert [one["at"] for one in history.samples] == [KEPT_S * 5]


def test_an_engine_is_shown_in_percent_of_a_core_and_a_restarted_one_starts_anew() -> None:
    history = History()
    for at, spent in ((0.0, 100.0), (15.0, 130.0), (30.0, 2.0), (45.0, 5.0)):
        history.add(at, system(cpu_seconds=spent))
    assert [one["engines"]["main"]["cpu_percent"] for one in history.samples] == [None, 200.0, None, 20.0]
    assert history.samples[0]["engines"]["main"]["resident_bytes"] == 7


def test_a_clock_that_is_set_back_breaks_nothing() -> None:
    history = History()
    history.add(100.0, system(cpu_seconds=1.0))
    history.add(100.0, system(cpu_seconds=2.0))
    history.add(40.0, system(cpu_seconds=3.0))
    assert [one["at"] for one in history.samples] == [100.0]


def test_what_an_older_node_does_not_tell_is_left_open() -> None:
    history = History()
    history.add(1.0, {})
    assert history.samples[0] == {
        "at": 1.0, "cpu_percent": None, "memory_percent": None, "engines": {}, "gpus": [],
    }  # fmt: skip
    history.add(20.0, system(gpus=[{"name": "a", "load_percent": 3, "memory_used": 4, "index": 0}]))
    assert history.samples[1]["gpus"] == [{"load_percent": 3, "memory_used": 4}]
