"""The state of the panels follows the events, each once, whatever order the wire's faults bring them in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.cli.watch import CallView, SequenceGapError, Watch

WHERE = {"stage": "opinions", "agent_id": "agent_1"}


def story(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"seq": seq, **event} for seq, event in enumerate(events, 1)]


def watch(*events: dict[str, Any], until: float = 0.0) -> Watch:
    seen = Watch("1")
    for seconds, event in enumerate(story(*events)):
        seen.apply(event, float(seconds))
    return seen


def call(seen: Watch) -> CallView:
    return seen.calls["opinions", "agent_1"]


STARTED = {"type": "call.started", **WHERE, "node": "pc2", "model": "llama3.2:1b"}
HELLO = {"type": "call.delta", **WHERE, "channel": "answer", "text": "Hello "}
WORLD = {"type": "call.delta", **WHERE, "channel": "answer", "text": "world"}


def test_deltas_add_up_to_the_text_and_thinking_stays_apart() -> None:
    thinking = {"type": "call.delta", **WHERE, "channel": "thinking", "text": "hm"}
    seen = call(watch(STARTED, thinking, HELLO, WORLD))
    assert (seen.text, seen.thinking, seen.state, seen.node) == ("Hello world", "hm", "running", "pc2")


@given(st.lists(st.integers(min_value=0, max_value=4)))
def test_an_event_that_comes_again_changes_nothing(repeats: list[int]) -> None:
    events = story(STARTED, HELLO, WORLD, {"type": "call.completed", **WHERE}, {"type": "session.completed"})
    seen = Watch("1")
    for event in events:
        seen.apply(event, 0.0)
        for index in repeats:
            if index < seen.seq:
                assert seen.apply(events[index], 0.0) is False
    assert call(seen).text == "Hello world"
    assert seen.ended


def test_a_missing_event_is_told_and_the_state_is_as_before() -> None:
    events = story(STARTED, HELLO, WORLD)
    seen = Watch("1")
    seen.apply(events[0], 0.0)
    with pytest.raises(SequenceGapError) as gap:
        seen.apply(events[2], 0.0)
    assert (gap.value.after, gap.value.got, seen.seq) == (1, 3, 1)
    seen.apply(events[1], 0.0)
    seen.apply(events[2], 0.0)
    assert call(seen).text == "Hello world"


def test_a_call_that_restarts_begins_its_text_anew() -> None:
    restarted = {
        "type": "call.restarted",
        **WHERE,
        "from_node": "pc2",
        "to_node": "pc1",
        "reason": "stream_cut",
    }
    seen = call(watch(STARTED, HELLO, restarted, {**STARTED, "node": "pc1"}, WORLD))
    assert (seen.text, seen.node, seen.restarts) == ("world", "pc1", 1)
    assert seen.note == "began anew: stream cut on pc2"


def test_a_fall_back_chairman_takes_the_seat_over() -> None:
    chair = {"stage": "synthesis", "agent_id": "chairman"}
    seen = watch(
        {"type": "stage.started", "stage": "synthesis"},
        {"type": "call.started", **chair, "model": "phi3.5", "node": "pc1"},
        {"type": "call.failed", **chair, "error": {"code": "stream_cut", "detail": "cut off"}},
        {"type": "call.started", **chair, "model": "llama3.2:1b", "node": "pc2"},
    )
    (chairman,) = seen.calls_of("synthesis")
    assert (chairman.state, chairman.model, chairman.node) == ("running", "llama3.2:1b", "pc2")


def session(**fields: Any) -> dict[str, Any]:
    agent = {
        "agent_id": "agent_1",
        "model": "m",
        "state": "running",
        "review_state": "waiting",
        "node": "pc1",
    }
    return {"state": "opinions", "agents": [agent], "chairman": "c", **fields}


@pytest.mark.parametrize("partial", ["Hello world", {"answer": "Hello world", "thinking": "hm"}])
def test_a_snapshot_carries_the_text_so_far_and_the_number_to_go_on_from(partial: object) -> None:
    seen = watch(STARTED, HELLO)
    seen.apply(
        {"type": "snapshot", "seq": 500, "session": session(), "partial": {"opinions": {"agent_1": partial}}},
        1.0,
    )
    assert (call(seen).text, call(seen).restarts, seen.seq) == ("Hello world", 0, 500)
    assert seen.apply({"seq": 501, **WORLD}, 1.0)


def test_a_snapshot_with_another_text_is_a_text_that_began_anew() -> None:
    seen = watch(STARTED, HELLO)
    partial = {"opinions": {"agent_1": {"answer": "Quite other"}}}
    seen.apply({"type": "snapshot", "seq": 9, "session": session(), "partial": partial}, 1.0)
    assert (call(seen).text, call(seen).restarts) == ("Quite other", 1)


def test_a_snapshot_may_fall_behind_after_the_master_lost_numbers() -> None:
    seen = watch(STARTED, HELLO)
    seen.apply({"type": "snapshot", "seq": 1, "session": session(), "partial": {}}, 1.0)
    assert seen.seq == 1


@pytest.mark.parametrize(
    ("event", "state"),
    [
        ({"type": "session.completed", "result": "full"}, "completed"),
        ({"type": "session.failed", "error": {"code": "quorum_not_met", "detail": "too few"}}, "failed"),
        ({"type": "session.cancelled"}, "cancelled"),
    ],
)
def test_each_end_is_an_end(event: dict[str, Any], state: str) -> None:
    seen = watch(event)
    assert seen.ended
    assert seen.state == state


def test_a_reopened_session_goes_on() -> None:
    seen = watch({"type": "session.completed", "result": "full"}, {"type": "session.reopened", "run": 2})
    assert not seen.ended


def test_an_unknown_event_is_counted_and_ignored() -> None:
    assert watch({"type": "something.new", "stage": "opinions"}).seq == 1


def test_the_speed_is_an_estimate_until_the_engine_has_measured_it() -> None:
    seen = watch(STARTED, HELLO, WORLD)
    assert call(seen).tokens_per_second(3.0) == (1.0, False)
    measured = {"type": "call.completed", **WHERE, "latency": {"tokens_per_second": 48.2}}
    seen.apply({"seq": 4, **measured}, 3.0)
    assert call(seen).tokens_per_second(9.0) == (48.2, True)
    assert call(seen).elapsed_s(9.0) == 3.0


def test_control_codes_of_a_model_never_reach_the_state() -> None:
    seen = watch(STARTED, {**HELLO, "text": "a\x1b[2Jb\u202ec"})
    assert call(seen).text == "a[2Jbc"


def test_ballots_are_known_by_reviewer() -> None:
    seen = watch(
        {"type": "ballot.accepted", "reviewer": "agent_1"},
        {"type": "ballot.abstained", "reviewer": "agent_2", "reason": "no valid ballot"},
    )
    assert seen.ballots == {"agent_1": "accepted", "agent_2": "abstained: no valid ballot"}
