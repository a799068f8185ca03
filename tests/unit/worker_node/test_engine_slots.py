"""What is found out of an engine's slots, before an engine that queues as Ollama does."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from common.usage import TokenUsage
from worker_node.engine_slots import RETRY_S, EngineSlots
from worker_node.engines.base import Finished

NOISE_S = 0.02  # what a loop and a LAN add to the moment at which something is seen
TOLD = 5
M = "m"


def account(wait_s: float, prompt_s: float, write_s: float) -> Finished:
    return Finished("stop", TokenUsage(), 5.0, prompt_s * 1000, write_s * 1000, wait_s * 1000)


@dataclass
class Ollama:
    """`slots` calls at once and a line behind them; the node sends as many as `core` lets it."""

    slots: int
    core: EngineSlots = field(default_factory=EngineSlots)
    seed: int = 0
    now: float = 0.0
    most_at_once: int = 0
    overhead_s: float = 0.01

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._ids = itertools.count()

    def serve(self, calls: Iterable[tuple[float, float, float]]) -> None:
        """Calls of (pause before it, prompt, writing), to the end of the last one."""
        at = self.now
        coming: deque[tuple[float, float, float]] = deque()
        for pause_s, prompt_s, write_s in calls:
            at += pause_s
            coming.append((at, prompt_s, write_s))
        waiting: deque[tuple[float, float]] = deque()  # in the node
        line: deque[tuple[int, float, float, float]] = deque()  # in the engine
        served: list[tuple[float, int, float, float, float]] = []
        while coming or waiting or line or served:
            if coming and (not served or coming[0][0] <= served[0][0]):
                self.now, prompt_s, write_s = coming.popleft()
                waiting.append((prompt_s, write_s))
            else:
                ends, call, wait_s, prompt_s, write_s = heapq.heappop(served)
                self.now = ends
                seen = ends + self._random.uniform(0, NOISE_S)
                self.core.ended(call, seen, account(wait_s + self.overhead_s, prompt_s, write_s))
            allowed = self.core.slots(M, TOLD, self.now)
            while waiting and len(line) + len(served) < allowed:
                prompt_s, write_s = waiting.popleft()
                call = next(self._ids)
                self.core.began(call, M, self.now - self._random.uniform(0, NOISE_S))
                line.append((call, self.now, prompt_s, write_s))
            while line and len(served) < self.slots:
                call, came, prompt_s, write_s = line.popleft()
                wait_s = self.now - came
                ends = self.now + self.overhead_s + prompt_s + write_s
                heapq.heappush(served, (ends, call, wait_s, prompt_s, write_s))
            self.most_at_once = max(self.most_at_once, len(line) + len(served))

    @property
    def found(self) -> int:
        return self.core.slots(M, TOLD, self.now)


calls = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.05, 0.6, 4.0]),
        st.floats(0.01, 2.0),
        st.sampled_from([0.05, 1.0, 3.3, 9.0]),
    ),
    max_size=40,
)


@given(calls, st.integers(1, TOLD), st.integers(0, 2**16))
def test_no_traffic_makes_it_fewer_than_there_are(
    traffic: Sequence[tuple[float, float, float]], slots: int, seed: int
) -> None:
    engine = Ollama(slots, seed=seed)
    engine.serve(traffic)
    assert engine.found >= slots


@given(st.integers(1, TOLD), st.integers(0, 2**16), st.floats(0.6, 8.0))
def test_calls_that_keep_it_busy_show_what_there_is(slots: int, seed: int, length_s: float) -> None:
    engine = Ollama(slots, seed=seed)
    chance = random.Random(seed)
    engine.serve([(0.0, 0.1, length_s * chance.uniform(0.7, 1.3)) for _ in range(40)])
    assert engine.found == slots
    engine.most_at_once = 0
    engine.serve([(0.0, 0.1, length_s)] * 20)
    assert engine.most_at_once == slots


def test_a_burst_and_two_calls_show_that_they_run_one_after_another() -> None:
    engine = Ollama(1)
    engine.serve([(0.0, 0.1, 2.0)] * TOLD)
    assert engine.found == 2
    engine.serve([(0.0, 0.1, 2.0)] * 2)
    assert engine.found == 1


def test_one_witness_is_not_enough() -> None:
    engine = Ollama(1)
    engine.serve([(0.0, 0.1, 2.0)] * 2)
    assert engine.found == TOLD
    engine.serve([(0.0, 0.1, 2.0)] * 2)
    assert engine.found == 1


def test_a_wait_that_ends_while_the_neighbour_writes_on_says_nothing() -> None:
    """Its long prompt held the engine up; there was a slot."""
    core = EngineSlots()
    for number in range(0, 20, 2):
        assert core.slots(M, TOLD, number) == TOLD
        core.began(number, M, 100.0 * number)
        core.began(number + 1, M, 100.0 * number + 0.1)
        core.ended(number, 100.0 * number + 60.0, account(0.01, 20.0, 40.0))
        core.ended(number + 1, 100.0 * number + 90.0, account(20.0, 30.0, 40.0))
    assert core.slots(M, TOLD, 0.0) == TOLD


def test_a_wait_behind_a_stranger_says_nothing() -> None:
    core = EngineSlots()
    core.slots(M, TOLD, 0.0)
    for number in range(10):
        core.began(number, M, 100.0 * number)
        core.ended(number, 100.0 * number + 40.0, account(20.0, 1.0, 19.0))
    assert core.slots(M, TOLD, 0.0) == TOLD


def test_a_call_that_broke_off_is_no_witness_and_a_model_of_one_slot_stays_one() -> None:
    core = EngineSlots()
    assert core.slots(M, 1, 0.0) == 1
    core.began(1, M, 0.0)
    core.began(2, M, 0.0)
    assert not core.ended(1, 5.0, None)
    assert not core.ended(2, 9.0, account(5.0, 1.0, 3.0))
    assert core.slots(M, 1, 1e6) == 1


def test_one_more_is_tried_after_a_while_and_a_refuted_try_waits_twice_as_long() -> None:
    engine = Ollama(1)
    engine.serve([(0.0, 0.1, 2.0)] * 8)
    assert engine.found == 1
    engine.now += RETRY_S
    assert engine.found == 2
    engine.serve([(0.0, 0.1, 2.0)] * 8)
    assert engine.found == 1
    engine.now += RETRY_S + 60.0
    assert engine.found == 1
    engine.now += RETRY_S
    assert engine.found == 2


def test_slots_that_came_back_are_found_with_the_next_calls_after_a_restart() -> None:
    engine = Ollama(1)
    engine.serve([(0.0, 0.1, 2.0)] * 8)
    engine.slots = 4
    engine.core.restarted(engine.now)
    engine.serve([(0.3, 0.1, 9.0)] * 40)
    assert engine.found == 4


@given(st.integers(0, 2**16))
def test_an_engine_that_was_taken_for_smaller_heals(seed: int) -> None:
    engine = Ollama(1, seed=seed)
    engine.serve([(0.0, 0.1, 2.0)] * 8)
    engine.slots = TOLD
    for _ in range(3):
        engine.now += RETRY_S
        engine.serve([(0.4, 0.1, 8.0)] * 30)
    assert engine.found == TOLD


def test_another_engine_is_believed_what_it_is_said_to_have() -> None:
    engine = Ollama(1)
    engine.serve([(0.0, 0.1, 2.0)] * 8)
    engine.core.forget()
    assert engine.found == TOLD
