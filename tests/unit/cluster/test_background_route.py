"""The fall-back of background calls: warned of, given back without a restart, never a shuttle."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from master.cluster.background_route import DWELL_S, BackgroundRoute, Policy, Target


def targets(route: BackgroundRoute, *seen: tuple[float, bool]) -> list[Target]:
    return [route.decide(configured=True, up=up, now=now).target for now, up in seen]


def test_without_a_background_engine_calls_go_to_the_main_one_and_nobody_is_warned() -> None:
    route = BackgroundRoute().decide(configured=False, up=False, now=0.0)
    assert (route.target, route.warning) == ("main", None)


def test_a_dead_background_engine_sends_calls_to_the_main_one_with_a_warning() -> None:
    route = BackgroundRoute()
    assert route.decide(configured=True, up=True, now=0.0).warning is None
    down = route.decide(configured=True, up=False, now=1.0)
    assert down.target == "main"
    assert down.warning is not None


def test_it_is_used_again_without_a_restart_once_a_minute_has_passed() -> None:
    route = BackgroundRoute()
    assert targets(route, (0.0, False), (30.0, True), (59.9, True), (60.0, True), (61.0, True)) == [
        "main",
        "main",
        "main",
        "background",
        "background",
    ]


def test_an_engine_that_flaps_makes_calls_wait_and_not_run_back_and_forth() -> None:
    route = BackgroundRoute()
    assert targets(route, (0.0, False), (60.0, True), (70.0, False), (119.0, False), (120.0, False)) == [
        "main",
        "background",
        "wait",
        "wait",
        "main",
    ]


def test_the_policies_wait_and_fail_never_touch_the_main_engine() -> None:
    for policy in ("wait", "fail"):
        route = BackgroundRoute(policy=policy)
        assert targets(route, (0.0, True), (1.0, False), (99.0, False), (100.0, True)) == [
            "background",
            policy,
            policy,
            "background",
        ]


@given(
    st.sampled_from(["main_with_warning", "wait", "fail"]),
    st.lists(st.tuples(st.floats(0.1, 90.0), st.booleans()), max_size=40),
)
def test_between_two_changes_lies_a_minute_whatever_the_engine_does(
    policy: Policy, steps: list[tuple[float, bool]]
) -> None:
    route, now = BackgroundRoute(policy=policy), 0.0
    changes: list[float] = []
    home: Target = "background"
    for pause, up in steps:
        now += pause
        target = route.decide(configured=True, up=up, now=now).target
        assert target != "background" or up
        if target in ("main", "background") and target != home:
            changes.append(now)
            home = target
    assert all(later - earlier >= DWELL_S - 1e-6 for earlier, later in itertools.pairwise(changes))
