"""How long a call that failed waits before it is sent to the same node again."""

from __future__ import annotations

import pytest

from common.errors import EngineFailedError, NodeDrainingError
from master.cluster.attempt import Attempt
from master.cluster.tries import MAX_MOVES, Tries


def pauses(tries: Tries, times: int = 200) -> list[float]:
    return [tries.pause_s() for _ in range(times)]


@pytest.mark.parametrize(
    ("moves", "restarts", "longest_s"),
    [(1, 0, 0.4), (2, 0, 0.8), (3, 0, 1.6), (2, 1, 1.6), (9, 0, 5.0), (900, 0, 5.0)],
)
def test_each_pause_may_be_twice_as_long_up_to_five_seconds(
    moves: int, restarts: int, longest_s: float
) -> None:
    drawn = pauses(Tries(moves, restarts))
    assert longest_s / 2 <= min(drawn)
    assert max(drawn) <= longest_s


def test_calls_that_failed_together_do_not_come_back_together() -> None:
    drawn = sorted(pauses(Tries(2, 0)))
    assert len(set(drawn)) > 150
    assert drawn[-1] - drawn[0] > 0.2, "spread over half of the longest pause"


def test_a_failure_lengthens_the_next_pause_and_a_node_that_stops_does_not() -> None:
    tries, attempt = Tries(), Attempt("pc2", "m", 0.0, 0.0)
    assert all(tries.again(EngineFailedError("odd"), attempt, elsewhere=False) for _ in range(MAX_MOVES))
    assert not tries.again(EngineFailedError("odd"), attempt, elsewhere=False)
    stopping = Tries()
    assert stopping.again(NodeDrainingError("stopping"), attempt, elsewhere=False)
    assert max(pauses(stopping)) <= 0.2 < min(pauses(tries))
