"""What is learned of speeds, and how soon."""

from __future__ import annotations

import pytest

from master.cluster.placement import ModelPlace, NodeView
from master.cluster.speeds import Learned, Sample, Speeds, prior
from tests.unit.cluster.cluster import lanes_of, node

GB = 10**9


def shown(
    token_s: float, *, concurrency: float | None = 1.0, load_s: float = 0.0, cached: bool = False
) -> Sample:
    return Sample(400, 100, load_s, 400 * token_s / 10, 100 * token_s, cached, concurrency)


def generate_s(speeds: Speeds, model: str = "m", size: int = GB) -> float:
    return speeds.of("pc2", "main", model, size).generate_s_per_token


def test_before_anything_is_known_a_bigger_model_is_taken_to_be_slower() -> None:
    small, big = prior(GB), prior(8 * GB)
    assert small.load_s < big.load_s
    assert small.prompt_s_per_token < small.generate_s_per_token < big.generate_s_per_token


def test_the_first_call_replaces_the_guess() -> None:
    speeds = Speeds()
    speeds.learn("pc2", "main", "m", GB, shown(0.2, load_s=7.0))
    speed = speeds.of("pc2", "main", "m", GB)
    assert speed.load_s == 7.0
    assert speed.generate_s_per_token == pytest.approx(0.2)
    assert speed.prompt_s_per_token == pytest.approx(0.02)


def test_what_one_model_showed_scales_the_guess_for_the_node_s_other_models() -> None:
    speeds = Speeds()
    speeds.learn("pc2", "main", "m", GB, shown(prior(GB).generate_s_per_token * 4))
    assert generate_s(speeds, "other", 2 * GB) == pytest.approx(prior(2 * GB).generate_s_per_token * 4)
    assert speeds.of("pc3", "main", "other", 2 * GB) == prior(2 * GB)


def test_a_node_that_slows_fourfold_is_known_after_three_calls_and_one_odd_call_is_forgotten() -> None:
    speeds = Speeds()
    for _ in range(20):
        speeds.learn("pc2", "main", "m", GB, shown(0.1))
    for _ in range(3):
        speeds.learn("pc2", "main", "m", GB, shown(0.4))
    assert generate_s(speeds) > 0.3
    for _ in range(4):
        speeds.learn("pc2", "main", "m", GB, shown(0.1))
    speeds.learn("pc2", "main", "m", GB, shown(50.0))
    assert generate_s(speeds) < 0.4


def test_a_slowed_node_that_nobody_asks_is_forgiven_by_half_every_five_minutes() -> None:
    speeds = Speeds()
    for _ in range(20):
        speeds.learn("pc2", "main", "m", GB, shown(0.1), 0.0)
    for _ in range(6):
        speeds.learn("pc2", "main", "m", GB, shown(0.4), 0.0)
    slowed = generate_s(speeds)
    speeds.changed()
    for now in range(2, 302, 2):  # as often as heartbeats come
        speeds.forgive("pc2", "main", float(now))
    forgiven = generate_s(speeds)
    assert 0.45 < (forgiven - 0.1) / (slowed - 0.1) < 0.65
    assert [row.quantity for row in speeds.changed()] == ["generate", "prompt"]
    speeds.forgive("pc2", "main", 6000.0)
    usual = generate_s(speeds)
    assert usual < 0.12
    speeds.learn("pc2", "main", "m", GB, shown(0.4), 6000.0)
    speeds.learn("pc2", "main", "m", GB, shown(0.4), 6000.0)
    assert generate_s(speeds) > 1.5 * usual, "one that is slow still is known again after two calls"
    steady = Speeds()
    steady.learn("pc2", "main", "m", GB, shown(0.4), 0.0)
    before = steady.of("pc2", "main", "m", GB)
    steady.forgive("pc2", "main", 6000.0)
    assert steady.of("pc2", "main", "m", GB) == before, "what was always slow is not expected to be quick"


def test_sharing_is_learned_from_calls_beside_others_and_only_against_calls_alone() -> None:
    speeds = Speeds()
    for _ in range(3):
        speeds.learn("pc2", "main", "m", GB, shown(0.3, concurrency=3.0))
    assert speeds.measured_sharing("pc2", "main") is None
    speeds = Speeds()
    for _ in range(3):
        speeds.learn("pc2", "main", "m", GB, shown(0.1))
    for _ in range(12):
        speeds.learn("pc2", "main", "m", GB, shown(0.2, concurrency=3.0))
    assert speeds.measured_sharing("pc2", "main") == pytest.approx(0.5, abs=0.05)
    assert generate_s(speeds) == pytest.approx(0.1, rel=0.1)


def test_a_call_that_waited_inside_its_engine_shows_nothing_of_speed() -> None:
    speeds = Speeds()
    speeds.learn("pc2", "main", "m", GB, shown(0.1))
    for _ in range(9):
        speeds.learn("pc2", "main", "m", GB, shown(0.1, concurrency=None))
    assert speeds.measured_sharing("pc2", "main") is None
    speeds.learn("pc2", "main", "m", GB, shown(0.9, concurrency=None))
    assert generate_s(speeds) == pytest.approx(0.1)


def test_what_was_learned_of_sharing_goes_with_the_slots_that_were_believed_in() -> None:
    speeds = Speeds()
    for concurrency in (1.0, 3.0, 3.0, 3.0):
        speeds.learn("pc2", "main", "m", GB, shown(0.1, concurrency=concurrency))
    assert speeds.measured_sharing("pc2", "main") == 0.0
    lanes = lanes_of(node("pc2", ("m", 5, True)), known=speeds)
    lanes.know(node("pc2", ("m", 5, True)), 10.0)
    assert speeds.measured_sharing("pc2", "main") == 0.0
    speeds.changed()
    lanes.know(node("pc2", ("m", 1, True)), 20.0)
    assert speeds.measured_sharing("pc2", "main") is None
    kept = Speeds()
    kept.restore(speeds.changed())
    assert kept.measured_sharing("pc2", "main") is None


def test_a_prompt_that_was_cached_teaches_nothing_about_reading() -> None:
    speeds = Speeds()
    speeds.learn("pc2", "main", "m", GB, shown(0.2))
    before = speeds.of("pc2", "main", "m", GB).prompt_s_per_token
    speeds.learn("pc2", "main", "m", GB, Sample(400, 100, 0.0, 0.01, 20.0, cached=True))
    assert speeds.of("pc2", "main", "m", GB).prompt_s_per_token == before


def test_what_changed_is_told_once() -> None:
    speeds = Speeds()
    speeds.learn("pc2", "main", "m", GB, shown(0.2, load_s=1.0))
    rows = speeds.changed()
    assert [row.quantity for row in rows] == ["generate", "load", "prompt"]
    assert speeds.changed() == []
    speeds.unkept(rows)
    assert speeds.changed() == rows


def restarted(speeds: Speeds) -> Speeds:
    """What the next master begins with."""
    again = Speeds()
    again.restore(speeds.changed())
    return again


def test_a_slowed_node_is_forgiven_by_the_next_master_too() -> None:
    learning = Speeds()
    for _ in range(20):
        learning.learn("pc2", "main", "m", GB, shown(0.1), 5e6)
    for _ in range(6):
        learning.learn("pc2", "main", "m", GB, shown(0.4), 5e6)
    speeds = restarted(learning)
    slowed = generate_s(speeds)
    assert slowed == generate_s(learning) > 0.3
    speeds.forgive("pc2", "main", 10.0)  # its clock begins anew
    assert generate_s(speeds) == slowed
    speeds.forgive("pc2", "main", 310.0)
    assert 0.45 < (generate_s(speeds) - 0.1) / (slowed - 0.1) < 0.65
    seen_slow = Speeds()
    seen_slow.restore([Learned("pc2", "main", "m", "generate", 0.4, 26, 0.1)])
    seen_slow.learn("pc2", "main", "m", GB, shown(0.4), 10.0)
    seen_slow.forgive("pc2", "main", 6000.0)
    assert generate_s(seen_slow) < 0.15, "a slow call does not make slow what is usual"


def test_what_was_kept_scales_the_guess_for_other_models_once_sizes_are_known() -> None:
    learning = Speeds()
    learning.learn("pc2", "main", "m", GB, shown(prior(GB).generate_s_per_token * 4, load_s=9.0))
    speeds = restarted(learning)
    for known in (learning, speeds):
        lanes_of(
            NodeView("pc2", [ModelPlace("m", 1, True, GB), ModelPlace("other", 1, False, 2 * GB)]),
            known=known,
        )
    assert speeds.of("pc2", "main", "other", 2 * GB) == learning.of("pc2", "main", "other", 2 * GB)
    assert speeds.of("pc2", "main", "other", 2 * GB) != prior(2 * GB)


def test_sharing_that_was_measured_is_learned_on_by_the_next_master() -> None:
    learning = Speeds()
    learning.learn("pc2", "main", "m", GB, shown(0.1))
    for _ in range(4):
        learning.learn("pc2", "main", "m", GB, shown(0.1, concurrency=3.0))
    speeds = restarted(learning)
    assert speeds.measured_sharing("pc2", "main") == 0.0
    for _ in range(12):
        speeds.learn("pc2", "main", "m", GB, shown(0.2, concurrency=3.0))
    assert (speeds.measured_sharing("pc2", "main") or 0.0) > 0.2
