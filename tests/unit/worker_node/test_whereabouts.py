"""A node tells its master where it is when that may have changed, soon and not often."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from worker_node.whereabouts import EVERY_S, PAUSES_S, REFUSED_EVERY_S, UNHEARD_S, Whereabouts

HOME, AWAY = ["192.168.1.20"], ["10.0.0.7"]


class Life:
    """A node that looks every second, on a clock of its own. `outcome` is what telling the master brings."""

    def __init__(self, *, heartbeat_s: float = 2.0) -> None:
        self.now = 0.0
        self.told_at: list[float] = []
        self.heard_at = float("-inf")
        self.outcome = "told"
        self.addresses = HOME
        self._heartbeat_s = heartbeat_s
        self._whereabouts = Whereabouts()

    def live(self, seconds: float, *, heard: bool | Callable[[], bool]) -> list[float]:
        """When it told within these seconds."""
        before = len(self.told_at)
        for _ in range(int(seconds)):
            if heard is True or (callable(heard) and heard()):
                self.heard_at = self.now
            if self._whereabouts.is_due(self.now, self.heard_at, self.addresses):
                self._whereabouts.began(self.now, self.addresses, jitter=1.0)
                self.told_at.append(self.now)
                if self.outcome == "told":
                    self._whereabouts.told(self.now, heartbeat_s=self._heartbeat_s)
                elif self.outcome == "failed":
                    self._whereabouts.failed(self.now)
                else:
                    self._whereabouts.refused(self.now)
            self.now += 1.0
        return self.told_at[before:]


def test_a_node_that_is_heard_tells_at_its_start_and_each_hour() -> None:
    life = Life()
    assert life.live(3 * EVERY_S, heard=True) == [0.0, EVERY_S, 2 * EVERY_S]


def test_the_silence_of_a_master_is_noticed_within_seconds() -> None:
    life = Life()
    life.live(100, heard=True)
    told = life.live(30, heard=False)
    assert told[0] - life.heard_at == UNHEARD_S


def test_a_node_whose_addresses_changed_waits_less_and_one_that_is_heard_all_the_same_does_nothing() -> None:
    life = Life()
    life.live(100, heard=True)
    life.addresses = [*HOME, *AWAY]  # a second network, and the master's calls still come
    assert life.live(60, heard=True) == []
    life.addresses = AWAY
    told = life.live(30, heard=False)
    assert told[0] - life.heard_at < UNHEARD_S / 2


def test_telling_in_vain_becomes_rare_and_a_call_of_the_master_ends_that() -> None:
    life = Life()
    life.live(10, heard=True)
    told = life.live(3600, heard=False)
    between = [after - before for before, after in pairwise(told)]
    assert between == sorted(between)
    assert between[0] == UNHEARD_S
    assert len(told) < 20
    life.live(5, heard=True)
    assert life.live(30, heard=False)[0] - life.heard_at == UNHEARD_S


def test_a_master_that_cannot_be_told_is_tried_with_growing_pauses() -> None:
    life = Life()
    life.outcome = "failed"
    told = life.live(600, heard=False)
    between = [after - before for before, after in pairwise(told)]
    assert between[: len(PAUSES_S)] == list(PAUSES_S)
    assert set(between[len(PAUSES_S) :]) == {PAUSES_S[-1]}
    life.addresses = AWAY  # another network may lead there
    assert life.live(1, heard=False) != []


def test_who_was_refused_does_not_insist_and_is_soon_back_when_the_master_knows_it_again() -> None:
    life = Life()
    life.outcome = "refused"
    life.live(1, heard=False)
    life.addresses = AWAY
    assert life.live(REFUSED_EVERY_S - 2, heard=False) == []
    assert len(life.live(10, heard=False)) == 1
    life.outcome = "told"
    assert len(life.live(REFUSED_EVERY_S, heard=False)) == 1


@pytest.mark.parametrize("heartbeat_s", [10.0, 60.0])
def test_a_master_with_a_slow_heartbeat_is_not_taken_for_silent(heartbeat_s: float) -> None:
    life = Life(heartbeat_s=heartbeat_s)
    beats = iter(range(10_000))
    assert life.live(1000, heard=lambda: next(beats) % heartbeat_s == 0) == [0.0]
