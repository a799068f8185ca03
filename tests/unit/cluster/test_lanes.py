"""Lanes and placement: pure claims, and properties over random traffic."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import QueueFullError
from master.cluster.lanes import Assignment, LaneCall, Lanes
from master.cluster.placement import ModelPlace, NodeView, choose


def node(name: str, *models: tuple[str, int, bool], usable: bool = True) -> NodeView:
    return NodeView(
        name, {model: ModelPlace(model, slots, resident) for model, slots, resident in models}, usable
    )


def test_a_resident_model_beats_an_idle_node_that_would_have_to_load() -> None:
    nodes = [node("cold", ("m", 4, False)), node("warm", ("m", 4, True))]
    assert choose("m", nodes, {("warm", "m"): 3}) == "warm"


def test_between_equals_the_fewest_calls_per_slot_win() -> None:
    nodes = [node("a", ("m", 2, True)), node("b", ("m", 4, True))]
    assert choose("m", nodes, {("a", "m"): 1, ("b", "m"): 1}) == "b"


def test_the_node_that_holds_the_prefix_is_preferred() -> None:
    nodes = [node("a", ("m", 4, True)), node("b", ("m", 4, True))]
    assert choose("m", nodes, {("b", "m"): 1}, prefix_node="b") == "b"


def test_a_node_where_the_call_failed_is_taken_only_when_there_is_no_other() -> None:
    both = [node("a", ("m", 1, True)), node("b", ("m", 1, False))]
    assert choose("m", both, {}, avoid={"a"}) == "b"
    assert choose("m", both, {("b", "m"): 1}, avoid={"a"}) is None
    assert choose("m", both[:1], {}, avoid={"a"}) == "a"


def test_a_node_that_is_not_usable_gets_nothing() -> None:
    assert choose("m", [node("a", ("m", 4, True), usable=False)], {}) is None


def test_a_model_is_found_under_its_other_spelling() -> None:
    assert choose("phi3.5:mini", [node("a", ("phi3.5:latest", 1, True))], {}) == "a"


def test_interactive_calls_go_before_background_ones_that_came_first() -> None:
    lanes = Lanes()
    lanes.submit(LaneCall("background", "m", "background"))
    lanes.submit(LaneCall("chat", "m"))
    nodes = [node("a", ("m", 1, True))]
    assert lanes.assign(nodes) == [Assignment("chat", "a", "m")]
    lanes.release("chat")
    assert lanes.assign(nodes) == [Assignment("background", "a", "m")]


def test_a_call_that_waits_for_its_model_holds_up_nobody_behind_it() -> None:
    lanes = Lanes()
    lanes.submit(LaneCall("first", "missing"))
    lanes.submit(LaneCall("second", "m"))
    assert [one.call_id for one in lanes.assign([node("a", ("m", 1, True))])] == ["second"]


def test_positions_count_those_who_wait_for_the_same_model() -> None:
    lanes = Lanes()
    for call_id, model in (("a", "m"), ("b", "n"), ("c", "M:latest")):
        lanes.submit(LaneCall(call_id, model))
    assert lanes.positions() == {"a": 1, "b": 1, "c": 2}


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    lanes = Lanes(max_waiting=1)
    lanes.submit(LaneCall("a", "m"))
    with pytest.raises(QueueFullError) as refused:
        lanes.submit(LaneCall("b", "m"))
    assert refused.value.headers["Retry-After"] == "5"


def test_a_slot_is_given_back_once_however_often_it_is_released() -> None:
    lanes = Lanes()
    nodes = [node("a", ("m", 1, True))]
    for call_id in ("one", "two", "three"):
        lanes.submit(LaneCall(call_id, "m"))
    assert len(lanes.assign(nodes)) == 1
    lanes.release("one")
    lanes.release("one")
    assert len(lanes.assign(nodes)) == 1
    assert lanes.assign(nodes) == []


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"), st.sampled_from(["m", "n"]), st.sampled_from(["interactive", "background"])
        ),
        st.tuples(st.just("release"), st.integers(0, 30), st.none()),
        st.tuples(st.just("withdraw"), st.integers(0, 30), st.none()),
    ),
    max_size=60,
)


@given(steps)
def test_no_slot_is_exceeded_and_no_call_lost_or_doubled(actions: list[tuple[str, object, object]]) -> None:
    nodes = [node("a", ("m", 2, True), ("n", 1, False)), node("b", ("m", 1, True))]
    slots = {("a", "m"): 2, ("a", "n"): 1, ("b", "m"): 1}
    lanes = Lanes()
    submitted: list[str] = []
    withdrawn: set[str] = set()
    held: dict[str, Assignment] = {}
    assigned: Counter[str] = Counter()
    for kind, value, call_class in actions:
        if kind == "submit":
            call_id = f"c{len(submitted)}"
            submitted.append(call_id)
            lanes.submit(LaneCall(call_id, str(value), call_class))  # type: ignore[arg-type]  # drawn from the two
        elif submitted and isinstance(value, int):
            call_id = submitted[value % len(submitted)]
            if kind == "release" and call_id in held:
                lanes.release(call_id)
                del held[call_id]
            elif kind == "withdraw" and call_id not in assigned:
                lanes.withdraw(call_id)
                withdrawn.add(call_id)
        for one in lanes.assign(nodes):
            held[one.call_id] = one
            assigned[one.call_id] += 1
        running = Counter((one.node, one.model) for one in held.values())
        assert all(count <= slots[place] for place, count in running.items())
    assert set(assigned) | withdrawn | set(lanes.positions()) == set(submitted)
    assert all(count == 1 for count in assigned.values())
