"""A guesser waits longer and longer; nobody else does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.attempts import FREE_ATTEMPTS, LONGEST_WAIT_S, MAX_PEERS, MAX_PROVEN, Attempts, peer_of


def guessed(attempts: Attempts, times: int, *, peer: str = "a", now: float = 0.0) -> None:
    for number in range(times):
        attempts.failed(peer, f"guess {peer} {number}", now)


def test_the_wait_doubles_up_to_its_longest() -> None:
    attempts = Attempts()
    guessed(attempts, FREE_ATTEMPTS - 1)
    assert attempts.wait_s("a", "next", 0.0) == 0.0
    waits = []
    for number in range(10):
        attempts.failed("a", f"more {number}", 0.0)
        waits.append(attempts.wait_s("a", "next", 0.0))
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST_WAIT_S
    assert attempts.wait_s("a", "next", LONGEST_WAIT_S) == 0.0
    assert attempts.wait_s("b", "next", 0.0) == 0.0


def test_the_same_wrong_key_is_one_guess() -> None:
    attempts = Attempts()
    for _ in range(1000):
        attempts.failed("a", "revoked", 0.0)
    assert attempts.wait_s("a", "right", 0.0) == 0.0


def test_a_key_that_was_right_here_never_waits_until_it_is_wrong() -> None:
    attempts = Attempts()
    attempts.passed("a", "right")
    guessed(attempts, 50)
    assert attempts.wait_s("a", "right", 0.0) == 0.0
    assert attempts.wait_s("b", "right", 0.0) == 0.0
    attempts.failed("a", "right", 0.0)  # it was revoked
    assert attempts.wait_s("a", "right", 0.0) > 0.0


def test_a_right_key_forgives_no_guess() -> None:
    attempts = Attempts()
    guessed(attempts, FREE_ATTEMPTS)
    attempts.passed("a", "mine")
    assert attempts.wait_s("a", "next", 0.0) > 0.0


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3), st.booleans()), max_size=200))
def test_the_tables_stay_bounded(calls: list[tuple[str, str, bool]]) -> None:
    attempts = Attempts()
    for number in range(MAX_PEERS):
        attempts.failed(f"peer {number}", "x", 0.0)
    for number in range(MAX_PROVEN):
        attempts.passed(f"peer {number}", "y")
    for peer, digest, right in calls:
        if right:
            attempts.passed(peer, digest)
        else:
            attempts.failed(peer, digest, 0.0)
    assert len(attempts._failed) <= MAX_PEERS
    assert len(attempts._proven) <= MAX_PROVEN


def test_one_machine_with_many_ipv6_addresses_is_one_peer() -> None:
    assert peer_of("2001:db8::1") == peer_of("2001:db8::ffff") != peer_of("2001:db8:0:1::1")
    assert peer_of("::ffff:192.0.2.7") == peer_of("192.0.2.7")
    assert peer_of("fe80::1%eth0") == peer_of("fe80::2")
    assert peer_of(None) == "unknown"
