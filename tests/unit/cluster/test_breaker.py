from __future__ import annotations

from master.cluster.breaker import PROBE_S, Breaker, BreakerState


def test_three_failures_in_a_row_open_it_and_a_success_between_starts_over() -> None:
    breaker = Breaker()
    breaker.failed(1.0)
    breaker.failed(2.0)
    breaker.succeeded()
    breaker.failed(3.0)
    breaker.failed(4.0)
    assert breaker.allows(4.0)
    breaker.failed(5.0)
    assert breaker.state(5.0) is BreakerState.OPEN
    assert not breaker.allows(5.0)


def test_calls_that_broke_together_are_one_failure() -> None:
    breaker = Breaker()
    for now in (10.0, 10.1, 10.2, 10.3):
        breaker.failed(now, sent=9.0)
    assert breaker.failures == 1
    for now in (11.0, 12.0):
        breaker.failed(now, sent=now - 0.5)
    assert breaker.state(12.0) is BreakerState.OPEN


def test_a_straggler_of_the_breakage_does_not_end_the_probe() -> None:
    breaker = Breaker()
    for now in (1.0, 2.0, 3.0):
        breaker.failed(now, sent=now - 0.1)
    breaker.sent(8.0)
    breaker.failed(8.5, sent=2.5)
    assert not breaker.allows(8.6)
    breaker.succeeded()
    assert breaker.allows(8.7)


def test_half_open_lets_one_probe_through_and_its_success_closes_it() -> None:
    breaker = Breaker()
    for now in (1.0, 2.0, 3.0):
        breaker.failed(now)
    assert breaker.state(8.0) is BreakerState.HALF_OPEN
    assert breaker.allows(8.0)
    breaker.sent(8.0)
    assert not breaker.allows(8.1)
    breaker.succeeded()
    assert breaker.state(8.2) is BreakerState.CLOSED


def test_a_failed_probe_opens_it_again_for_the_whole_time() -> None:
    breaker = Breaker()
    for now in (1.0, 2.0, 3.0):
        breaker.failed(now)
    breaker.sent(8.0)
    breaker.failed(9.0)
    assert not breaker.allows(13.9)
    assert breaker.allows(14.0)


def test_a_probe_that_told_nothing_frees_the_place_for_the_next() -> None:
    breaker = Breaker()
    for now in (1.0, 2.0, 3.0):
        breaker.failed(now)
    breaker.sent(8.0)
    breaker.returned()
    assert breaker.allows(8.1)


def test_a_probe_that_is_never_heard_of_again_does_not_keep_others_out_for_ever() -> None:
    breaker = Breaker()
    for now in (1.0, 2.0, 3.0):
        breaker.failed(now)
    breaker.sent(8.0)
    assert not breaker.allows(8.0 + PROBE_S - 0.1)
    assert breaker.allows(8.0 + PROBE_S)
    breaker.sent(8.0 + PROBE_S)
    assert not breaker.allows(8.1 + PROBE_S)
