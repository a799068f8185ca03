"""Who is taken for dead, and who only looks so for a moment."""

from __future__ import annotations

from master.cluster.roll import ABSENT_S, SETTLED_S, Roll, lock_key


def settled(*dead: str) -> tuple[Roll, float]:
    roll = Roll(dead)
    roll.connected(0.0)
    return roll, SETTLED_S + 1


def test_a_holder_lives_and_one_whose_lock_stays_gone_is_dead_for_good() -> None:
    roll, now = settled()
    roll.seen([lock_key("a")])
    assert roll.lives("a", now)
    roll.seen([])
    assert roll.lives("a", now)
    assert roll.lives("a", now + ABSENT_S - 0.1)
    assert not roll.lives("a", now + ABSENT_S)
    roll.seen([lock_key("a")])
    assert not roll.lives("a", now + ABSENT_S + 1), "names are used once: what was taken over stays so"


def test_a_lock_that_is_back_in_time_was_never_missed() -> None:
    roll, now = settled()
    roll.seen([])
    assert roll.lives("a", now)
    roll.seen([lock_key("a")])
    assert roll.lives("a", now + 1)
    roll.seen([])
    assert roll.lives("a", now + 2)
    assert roll.lives("a", now + 2 + ABSENT_S - 0.1)


def test_nobody_is_dead_while_the_server_is_away_or_has_just_come_back() -> None:
    roll, now = settled()
    roll.seen([])
    assert roll.lives("a", now)
    roll.disconnected()
    assert roll.lives("a", now + 100)
    roll.connected(now + 100)
    roll.seen([])
    assert roll.lives("a", now + 100)
    assert roll.lives("a", now + 100 + SETTLED_S - 0.1)
    assert not roll.lives("a", now + 100 + SETTLED_S)


def test_who_is_known_to_be_dead_is_so_at_once() -> None:
    roll, _ = settled("before")
    assert not roll.lives("before", 0.0)
    roll.gone("b")
    assert not roll.lives("b", 0.0)


def test_a_lock_key_fits_a_servers_number() -> None:
    keys = {lock_key(str(number)) for number in range(1000)}
    assert len(keys) == 1000
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys)
