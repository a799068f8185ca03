"""The admission core, driven without a loop."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.protocol import CallClass
from worker_node.admission import Admission, Admit, Decision, Moved, Preempt, Refuse


def test_a_free_slot_admits_at_once() -> None:
    core = Admission(max_resident=1, max_queue=0)
    assert core.arrive(1, "m", "interactive", 1) == [Admit(1)]


def test_a_call_that_cannot_start_is_told_its_position_at_once_and_at_each_change() -> None:
    core = Admission(max_resident=1, max_queue=5)
    core.arrive(1, "m", "interactive", 1)
    assert core.arrive(2, "m", "interactive", 1) == [Moved(2, 1)]
    assert core.arrive(3, "m", "interactive", 1) == [Moved(3, 2)]
    assert core.release(1, 1.0) == [Admit(2), Moved(3, 1)]


def test_interactive_calls_pass_background_calls() -> None:
    core = Admission(max_resident=1, max_queue=5)
    core.arrive(1, "m", "background", 1)
    core.arrive(2, "m", "background", 1)
    assert core.arrive(3, "m", "interactive", 1) == [Moved(3, 1), Moved(2, 2)]
    assert core.release(1, 1.0)[0] == Admit(3)


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    core = Admission(max_resident=1, max_queue=1, expected_call_s=4.0)
    core.arrive(1, "m", "interactive", 2)
    core.arrive(2, "m", "interactive", 2)
    core.arrive(3, "m", "interactive", 2)
    assert core.arrive(4, "m", "interactive", 2) == [Refuse(4, "queue_full", 4.0)]


def test_an_interactive_call_takes_the_place_of_the_youngest_background_call_in_a_full_queue() -> None:
    core = Admission(max_resident=1, max_queue=2)
    core.arrive(1, "m", "interactive", 1)
    core.arrive(2, "m", "background", 1)
    core.arrive(3, "m", "background", 1)
    decisions = core.arrive(4, "m", "interactive", 1)
    assert [one for one in decisions if isinstance(one, Refuse)] == [Refuse(3, "queue_full", 15.0)]
    assert Moved(4, 1) in decisions


def test_models_beyond_the_resident_bound_wait_for_a_place() -> None:
    core = Admission(max_resident=1, max_queue=5)
    core.arrive(1, "a", "interactive", 4)
    assert core.arrive(2, "b", "interactive", 4) == [Moved(2, 1)]
    assert core.release(1, 1.0) == [Admit(2)]


def test_later_calls_to_the_resident_model_do_not_starve_one_that_needs_its_place() -> None:
    core = Admission(max_resident=1, max_queue=5)
    core.arrive(1, "a", "interactive", 2)
    core.arrive(2, "b", "interactive", 2)
    assert core.arrive(3, "a", "interactive", 2) == [Moved(3, 1)], "a's free slot is not for who came later"
    assert core.release(1, 1.0) == [Admit(2)]


def test_who_leaves_the_queue_lets_those_behind_move_up() -> None:
    core = Admission(max_resident=1, max_queue=5)
    core.arrive(1, "a", "interactive", 2)
    core.arrive(2, "b", "interactive", 2)
    core.arrive(3, "a", "interactive", 2)
    assert core.cancel(2) == [Admit(3)]


def test_draining_refuses_who_waits_and_who_comes_and_lets_runners_end() -> None:
    core = Admission(max_resident=1, max_queue=5)
    core.arrive(1, "m", "interactive", 1)
    core.arrive(2, "m", "interactive", 1)
    assert [(one.call_id, one.reason) for one in core.drain() if isinstance(one, Refuse)] == [(2, "draining")]
    assert isinstance(core.arrive(3, "m", "interactive", 1)[0], Refuse)
    assert core.release(1, 1.0) == []
    core.resume()
    assert core.arrive(4, "m", "interactive", 1) == [Admit(4)]


def test_a_call_id_is_used_once() -> None:
    core = Admission(max_resident=1, max_queue=5)
    core.arrive(1, "m", "interactive", 1)
    with pytest.raises(ValueError, match="already known"):
        core.arrive(1, "m", "interactive", 1)


MODELS = {"a": 1, "b": 2, "c": 3}


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of arrivals, releases, hang-ups and drains, against what the rules promise."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Admission(max_resident=2, max_queue=6)
        self.next_id = 0
        self.model: dict[int, str] = {}
        self.kind: dict[int, CallClass] = {}
        self.running: set[int] = set()
        self.waiting: list[int] = []
        self.position: dict[int, int] = {}
        self.yields: set[int] = set()
        self.leaving: set[int] = set()

    def _apply(self, decisions: list[Decision]) -> None:
        for one in decisions:
            if isinstance(one, Admit):
                ahead = [
                    other
                    for other in self.waiting
                    if self.model[other] == self.model[one.call_id]
                    and self.kind[other] == self.kind[one.call_id]
                    and other < one.call_id
                ]
                assert not ahead, "first come, first served within a class and model"
                self.waiting.remove(one.call_id)
                self.running.add(one.call_id)
            elif isinstance(one, Refuse):
                self.waiting.remove(one.call_id)
                assert 1.0 <= one.retry_after_s <= 120.0
            elif isinstance(one, Preempt):
                assert one.call_id in self.running
                assert one.call_id in self.yields - self.leaving, "only who yields, and each once"
                assert any(self.kind[other] == "interactive" for other in self.waiting)
                self.leaving.add(one.call_id)
            else:
                self.position[one.call_id] = one.position

    @rule(
        model=st.sampled_from(sorted(MODELS)),
        kind=st.sampled_from(["interactive", "background"]),
        yields=st.booleans(),
    )
    def arrive(self, model: str, kind: CallClass, yields: bool) -> None:
        call_id = self.next_id = self.next_id + 1
        self.model[call_id], self.kind[call_id] = model, kind
        self.waiting.append(call_id)
        if yields and kind == "background":
            self.yields.add(call_id)
        self._apply(self.core.arrive(call_id, model, kind, MODELS[model], yields=yields))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), held_s=st.floats(0, 1000))
    def release(self, data: st.DataObject, held_s: float) -> None:
        call_id = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(call_id)
        self._apply(self.core.release(call_id, held_s))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call_id = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(call_id)
        self._apply(self.core.cancel(call_id))

    @rule()
    def drain_and_resume(self) -> None:
        self._apply(self.core.drain())
        assert not self.waiting
        self.core.resume()

    @invariant()
    def no_slot_and_no_place_is_given_twice(self) -> None:
        busy: dict[str, int] = defaultdict(int)
        for call_id in self.running:
            busy[self.model[call_id]] += 1
        assert all(count <= MODELS[model] for model, count in busy.items())
        assert len(busy) <= 2

    @invariant()
    def nobody_is_lost(self) -> None:
        assert self.core.running == len(self.running)
        assert self.core.waiting == len(self.waiting) <= 6

    @invariant()
    def everybody_who_waits_knows_the_position(self) -> None:
        for model in MODELS:
            mine = [call for call in self.waiting if self.model[call] == model]
            order = sorted(mine, key=lambda call: (self.kind[call] == "background", call))
            assert [self.position[call] for call in order] == list(range(1, len(order) + 1))

    def teardown(self) -> None:
        while self.running:
            call_id = min(self.running)
            self.running.discard(call_id)
            self._apply(self.core.release(call_id, 1.0))
        assert not self.waiting, "when all who run have ended, nobody is left waiting"


AdmissionMachine.TestCase.settings = settings(stateful_step_count=40)
TestAdmission = AdmissionMachine.TestCase


def test_a_call_that_yields_is_ended_for_an_interactive_one_and_others_are_not() -> None:
    core = Admission(max_resident=1, max_queue=5)
    core.arrive(1, "m", "background", 2, yields=True)
    core.arrive(2, "m", "background", 2)
    assert Preempt(1) in core.arrive(3, "m", "interactive", 2)
    assert not [one for one in core.arrive(4, "m", "interactive", 2) if isinstance(one, Preempt)]
    assert core.release(1, 1.0)[0] == Admit(3)


def test_no_more_calls_are_ended_than_interactive_ones_wait() -> None:
    core = Admission(max_resident=2, max_queue=9)
    for call_id in (1, 2, 3):
        core.arrive(call_id, "m", "background", 3, yields=True)
    core.arrive(4, "other", "background", 3, yields=True)
    assert [one for one in core.arrive(5, "m", "interactive", 3) if isinstance(one, Preempt)] == [Preempt(3)]
    assert [one for one in core.arrive(6, "m", "interactive", 3) if isinstance(one, Preempt)] == [Preempt(2)]
    assert core.release(2, 1.0)[0] == Admit(5)
    waits = core.arrive(7, "m", "background", 3, yields=True)
    assert not [one for one in waits if isinstance(one, Preempt)], "background waits for its turn"
