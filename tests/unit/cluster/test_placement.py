"""Where calls go: predicted completion, residency, prefixes, model switches."""

from __future__ import annotations

import itertools
from math import inf

from master.cluster.lane_call import Assignment
from master.cluster.speeds import Sample
from tests.unit.cluster.cluster import background, lanes_of, node, placed, preempted, speeds, submit

DONE = Sample(400, 256, 0.0, 0.4, 2.5)


def test_a_resident_model_beats_an_idle_node_that_would_have_to_load() -> None:
    known = speeds(("cold", "m", 30.0, 0.01), ("warm", "m", 30.0, 0.01), sharing=0.3)
    lanes = lanes_of(node("cold", ("m", 4, False)), node("warm", ("m", 4, True)), known=known)
    for call_id in ("one", "two", "three"):
        submit(lanes, call_id)
    assert set(placed(lanes.decide(0.0)).values()) == {"warm"}


def test_a_quick_load_beats_a_slow_node() -> None:
    known = speeds(("slow", "m", 1.0, 0.2), ("quick", "m", 2.0, 0.01))
    lanes = lanes_of(node("slow", ("m", 1, True)), node("quick", ("m", 1, False)), known=known)
    submit(lanes, "one")
    assert placed(lanes.decide(0.0)) == {"one": "quick"}


def test_a_call_waits_for_the_fast_node_where_it_ends_sooner_there() -> None:
    known = speeds(("slow", "m", 1.0, 0.1), ("fast", "m", 1.0, 0.01))
    lanes = lanes_of(node("slow", ("m", 1, True)), node("fast", ("m", 1, True)), known=known)
    submit(lanes, "one")
    submit(lanes, "two")
    assert placed(lanes.decide(0.0)) == {"one": "fast"}
    lanes.release("one", 3.0)
    assert placed(lanes.decide(3.0)) == {"two": "fast"}


def test_a_long_queue_uses_the_slow_node_too() -> None:
    known = speeds(("slow", "m", 1.0, 0.1), ("fast", "m", 1.0, 0.01))
    lanes = lanes_of(node("slow", ("m", 1, True)), node("fast", ("m", 1, True)), known=known)
    for number in range(20):
        submit(lanes, f"c{number}")
    assert set(placed(lanes.decide(0.0)).values()) == {"slow", "fast"}


def test_calls_on_one_engine_slow_each_other_so_an_idle_twin_is_used_first() -> None:
    known = speeds(("a", "m", 1.0, 0.01), ("b", "m", 1.0, 0.01), sharing=0.5)
    lanes = lanes_of(node("a", ("m", 2, True)), node("b", ("m", 4, True)), known=known)
    for number in range(2):
        submit(lanes, f"c{number}")
    assert set(placed(lanes.decide(0.0)).values()) == {"a", "b"}


def test_a_heavier_node_counts_as_faster() -> None:
    nodes = [node("a", ("m", 1, True)), node("b", ("m", 1, True), weight=2.0)]
    known = speeds(("a", "m", 1.0, 0.01), ("b", "m", 1.0, 0.01))
    lanes = lanes_of(*nodes, known=known)
    submit(lanes, "one")
    assert placed(lanes.decide(0.0)) == {"one": "b"}


def test_the_node_that_holds_the_prefix_is_preferred() -> None:
    for first in ("a", "b"):
        lanes = lanes_of(node("a", ("m", 4, True)), node("b", ("m", 4, True)))
        submit(lanes, "busy")
        (busy,) = placed(lanes.decide(0.0)).values()
        lanes.release("busy", 0.0)
        submit(lanes, "opinion", prefix_key="p", avoid=dict.fromkeys({"a", "b"} - {first}, inf))
        assert placed(lanes.decide(1.0)) == {"opinion": first}
        lanes.release("opinion", 2.0, DONE)
        submit(lanes, "review", prefix_key="p")
        assert placed(lanes.decide(2.0)) == {"review": first}, busy


def test_the_second_turn_goes_to_the_node_of_the_first_where_scores_are_equal() -> None:
    for first, other in (("a", "b"), ("b", "a")):
        lanes = lanes_of(node("a", ("m", 4, True)), node("b", ("m", 4, True)))
        submit(lanes, "turn 1", conversation_key="c", prefix_key="q1", avoid={other: inf})
        assert placed(lanes.decide(0.0)) == {"turn 1": first}
        lanes.release("turn 1", 1.0, Sample(0, 0, 0.0, 0.0, 0.0))  # it shows nothing of speeds
        submit(lanes, "turn 2", conversation_key="c", prefix_key="q2", opening_tokens=0.0)
        assert placed(lanes.decide(1.0)) == {"turn 2": first}


def test_a_long_conversation_makes_up_for_a_node_that_is_a_little_slower() -> None:
    known = speeds(("a", "m", 1.0, 0.04), ("b", "m", 1.0, 0.05))
    for opening, node_of in ((100.0, "a"), (3000.0, "b")):
        lanes = lanes_of(node("a", ("m", 4, True)), node("b", ("m", 4, True)), known=known)
        submit(lanes, "turn 1", conversation_key="c", prompt_tokens=opening, avoid={"a": inf})
        lanes.decide(0.0)
        lanes.release("turn 1", 1.0, Sample(0, 0, 0.0, 0.0, 0.0))
        tokens = {"prompt_tokens": opening + 100, "opening_tokens": opening}
        submit(lanes, "turn 2", "m", 1.0, conversation_key="c", **tokens)
        assert placed(lanes.decide(1.0)) == {"turn 2": node_of}


def test_what_the_stages_of_a_question_share_counts_before_the_turn_before() -> None:
    lanes = lanes_of(node("a", ("m", 4, True)), node("b", ("m", 4, True)))
    nothing = Sample(0, 0, 0.0, 0.0, 0.0)
    for call_id, prefix, other in (("opinion", "q2", "a"), ("another's turn", "q1", "b")):
        submit(lanes, call_id, conversation_key="c", prefix_key=prefix, avoid={other: inf})
        lanes.decide(0.0)
        lanes.release(call_id, 1.0, nothing)
    submit(lanes, "review", conversation_key="c", prefix_key="q2")
    assert placed(lanes.decide(1.0)) == {"review": "b"}


def test_a_prefix_of_another_model_attracts_nothing() -> None:
    lanes = lanes_of(node("a", ("m", 4, True), ("n", 4, True)), node("b", ("m", 4, True), ("n", 4, True)))
    submit(lanes, "one", "m", prefix_key="p", avoid={"a": inf})
    lanes.decide(0.0)
    lanes.release("one", 1.0)
    submit(lanes, "other", "n", prefix_key="p")
    assert placed(lanes.decide(1.0)) == {"other": "a"}


def test_a_node_where_the_call_failed_is_taken_only_when_there_is_no_other() -> None:
    both = [node("a", ("m", 1, True)), node("b", ("m", 1, False))]
    lanes = lanes_of(*both)
    submit(lanes, "one", avoid={"a": inf})
    assert placed(lanes.decide(0.0)) == {"one": "b"}
    submit(lanes, "two", avoid={"a": inf})
    assert placed(lanes.decide(0.0)) == {}
    alone = lanes_of(both[0])
    submit(alone, "one", avoid={"a": inf})
    assert placed(alone.decide(0.0)) == {"one": "a"}


def test_a_node_that_is_not_usable_gets_nothing() -> None:
    lanes = lanes_of(node("a", ("m", 4, True), usable=False))
    submit(lanes, "one")
    assert lanes.decide(0.0) == []
    lanes.know(node("a", ("m", 4, True)), 1.0)
    assert placed(lanes.decide(1.0)) == {"one": "a"}


def test_a_model_is_found_under_its_other_spelling() -> None:
    lanes = lanes_of(node("a", ("phi3.5:latest", 1, True)))
    submit(lanes, "one", "phi3.5:mini")
    (assignment,) = lanes.decide(0.0)
    assert isinstance(assignment, Assignment)
    assert assignment.model == "phi3.5:latest"


def test_a_call_is_not_held_longer_than_going_where_it_could_would_have_taken() -> None:
    """The fast node seems free in a second or two, time and again, and other calls keep it."""
    known = speeds(("slow", "x", 1.0, 0.1), ("fast", "x", 2.0, 0.01), ("fast", "y", 2.0, 0.007))
    cluster = (node("slow", ("x", 1, True)), node("fast", ("x", 1, False), ("y", 2, True), max_loaded=1))
    lanes = lanes_of(*cluster, known=known)
    there_s = 400 * 0.01 + 256 * 0.1  # of the call on the slow node
    now, ends, placed_at = 0.0, {}, None
    for number in range(400):
        if number % 2 == 0:
            submit(lanes, f"y{number}", "y", now)
        if number == 1:
            submit(lanes, "x", "x", now)
        lanes.pass_time()
        for call_id in placed(lanes.decide(now)):
            ends[call_id] = now + 1.9
            placed_at = now if call_id == "x" else placed_at
        if placed_at is not None:
            break
        now += 0.5
        for call_id in [one for one, end in ends.items() if end <= now]:
            del ends[call_id]
            lanes.release(call_id, now)
    assert placed_at is not None, "held for ever"
    assert 1.0 < placed_at <= there_s + 2.0


def test_a_call_is_not_held_for_a_node_that_it_avoids() -> None:
    known = speeds(("slow", "m", 1.0, 0.1), ("fast", "m", 1.0, 0.01))
    lanes = lanes_of(node("slow", ("m", 1, True)), node("fast", ("m", 1, True)), known=known)
    submit(lanes, "one")
    submit(lanes, "two", avoid={"fast": inf})
    assert placed(lanes.decide(0.0)) == {"one": "fast", "two": "slow"}


def test_a_call_that_avoids_the_free_node_holds_up_nobody_behind_it() -> None:
    lanes = lanes_of(node("a", ("m", 2, True)), node("b", ("m", 1, True)))
    submit(lanes, "fills b", avoid={"a": inf})
    assert placed(lanes.decide(0.0)) == {"fills b": "b"}
    for number in range(20):
        submit(lanes, f"restarted {number}", avoid={"a": inf})
    lanes.decide(0.0)
    submit(lanes, "one")
    lanes.pass_time()
    assert placed(lanes.decide(0.5)) == {"one": "a"}
    submit(lanes, "two")
    submit(lanes, "three")
    lanes.pass_time()
    assert placed(lanes.decide(1.0)) == {"two": "a"}
    lanes.release("one", 2.0)
    assert placed(lanes.decide(2.0)) == {"three": "a"}, "news of the node reach who is behind them"


def test_a_node_is_avoided_for_a_while_only() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)), node("b", ("m", 1, True)))
    submit(lanes, "fills b", avoid={"a": inf})
    submit(lanes, "restarted", avoid={"a": 20.0})
    assert placed(lanes.decide(0.0)) == {"fills b": "b"}
    lanes.pass_time()
    assert placed(lanes.decide(19.0)) == {}
    lanes.pass_time()
    assert placed(lanes.decide(20.0)) == {"restarted": "a"}


def test_no_model_is_drained_on_a_node_for_a_call_that_will_not_go_there() -> None:
    known = speeds(("a", "m", 1.0, 0.01), ("a", "n", 1.0, 0.1), ("b", "m", 1.0, 0.5))
    busy = node("a", ("m", 1, False), ("n", 1, True), max_loaded=1)
    lanes = lanes_of(busy, node("b", ("m", 1, True)), known=known)
    submit(lanes, "n", "n")
    submit(lanes, "m", avoid={"a": inf})
    assert placed(lanes.decide(0.0)) == {"n": "a", "m": "b"}  # until 28 s and 148 s
    submit(lanes, "restarted", avoid={"a": inf})
    submit(lanes, "next", "n")
    for now in (10.0, 20.0):
        lanes.pass_time()
        assert lanes.decide(now) == []
    lanes.release("n", 28.0)
    assert placed(lanes.decide(28.0)) == {"next": "a"}


# -- model switches -----------------------------------------------------------------------------------------


def test_one_load_at_a_time_on_an_engine() -> None:
    lanes = lanes_of(node("a", ("m", 1, False), ("n", 1, False)))
    submit(lanes, "one", "m")
    submit(lanes, "two", "n")
    assert len(placed(lanes.decide(0.0))) == 1
    assert lanes.decide(0.5) == []
    lanes.started("one", 1.0)
    assert placed(lanes.decide(1.0)) == {"two": "a"}


def test_a_load_whose_caller_hung_up_goes_on_and_no_other_begins_beside_it() -> None:
    known = speeds(("a", "m", 10.0, 0.01), ("a", "n", 10.0, 0.01))
    cold = node("a", ("m", 1, False), ("n", 1, False), max_loaded=1)
    for told, at in ((cold, 10.0), (node("a", ("m", 1, True), ("n", 1, False), max_loaded=1), 5.0)):
        lanes = lanes_of(cold, known=known)
        submit(lanes, "hangs up", "m")
        assert placed(lanes.decide(0.0)) == {"hangs up": "a"}
        lanes.release("hangs up", 1.0, loads_on=True)
        submit(lanes, "other", "n", 1.0)
        assert lanes.decide(1.0) == []
        lanes.know(cold, 4.5)
        assert lanes.decide(4.5) == [], "the node says what is loaded, not what loads"
        lanes.know(told, at)  # the time that it takes is over, or it is done
        assert placed(lanes.decide(at)) == {"other": "a"}


def test_who_comes_for_a_model_that_still_loads_for_nobody_waits_for_the_rest_of_it() -> None:
    known = speeds(("a", "m", 10.0, 0.01), ("b", "m", 8.0, 0.01))
    lanes = lanes_of(node("a", ("m", 1, False)), known=known)
    submit(lanes, "hangs up")
    lanes.decide(0.0)
    lanes.release("hangs up", 6.0, loads_on=True)
    lanes.know(node("b", ("m", 1, False)), 6.0)
    submit(lanes, "one", now=6.0)
    (assignment,) = lanes.decide(6.0)
    assert assignment == Assignment("one", "a", "m"), "four seconds more, and no second load"


def test_a_model_is_evicted_only_when_nothing_runs_on_it() -> None:
    lanes = lanes_of(node("a", ("m", 1, True), ("n", 1, False), max_loaded=1))
    submit(lanes, "one", "m")
    lanes.decide(0.0)
    submit(lanes, "two", "n")
    lanes.pass_time()
    assert lanes.decide(100.0) == []
    lanes.release("one", 101.0)
    (assignment,) = lanes.decide(101.0)
    assert assignment == Assignment("two", "a", "n", loads=True, evict="m")


def test_a_model_that_was_used_lately_is_not_evicted_for_less_than_its_load() -> None:
    known = speeds(("fast", "m", 4.0, 0.001), ("fast", "n", 2.0, 0.003), ("slow", "n", 9.0, 0.016))
    lanes = lanes_of(
        node("fast", ("m", 1, True), ("n", 1, False), max_loaded=1), node("slow", ("n", 1, True)), known=known
    )
    submit(lanes, "used", "m")
    lanes.decide(0.0)
    lanes.release("used", 1.0, DONE)
    submit(lanes, "soon", "n", 2.0)  # 5 s where it is, or a load of 2 s and 1 s
    assert placed(lanes.decide(2.0)) == {"soon": "slow"}
    lanes.release("soon", 7.0)
    submit(lanes, "later", "n", 200.0)
    assert placed(lanes.decide(200.0)) == {"later": "fast"}


def test_calls_for_two_models_in_turn_are_collated() -> None:
    """A B A B A B on an engine that holds one model: one switch, not five."""
    known = speeds(("a", "m", 5.0, 0.001), ("a", "n", 5.0, 0.001))
    lanes = lanes_of(node("a", ("m", 1, True), ("n", 1, False), max_loaded=1), known=known)
    for number in range(3):
        submit(lanes, f"m{number}", "m")
        submit(lanes, f"n{number}", "n")
    order: list[str] = []
    for now in range(6):
        for one in lanes.decide(float(now)):
            assert isinstance(one, Assignment)
            order.append(one.model)
            lanes.started(one.call_id, now + 0.1)
            lanes.release(one.call_id, now + 0.2)
    assert "".join(order) == "mmmnnn"


def test_a_model_in_constant_use_is_drained_for_one_that_has_waited() -> None:
    known = speeds(("a", "m", 2.0, 0.001), ("a", "n", 2.0, 0.001))
    lanes = lanes_of(node("a", ("m", 2, True), ("n", 1, False), max_loaded=1), known=known)
    submit(lanes, "waits", "n")
    now, running, served = 0.0, [], 0
    for number in range(60):
        submit(lanes, f"m{number}", "m", now)
        lanes.pass_time()
        for one in lanes.decide(now):
            assert isinstance(one, Assignment)
            if one.call_id == "waits":
                served = number
            running.append(one.call_id)
        if served:
            break
        now += 0.5
        if len(running) > 1 or now > 8.0:
            lanes.release(running.pop(0), now)
    assert 5 <= served <= 20  # it waited two loads of 2 s, not for ever and not never


def test_a_model_that_was_loaded_keeps_its_turn_although_all_have_waited_for_long() -> None:
    """Two models that all wait for, calls of 1 s, loads of 2 s: a turn has three times both loads."""
    known = speeds(("a", "m", 2.0, 0.003), ("a", "n", 2.0, 0.003))
    lanes = lanes_of(node("a", ("m", 1, True), ("n", 1, False), max_loaded=1), known=known)
    for number in range(100):
        submit(lanes, f"m{number}", "m")
        submit(lanes, f"n{number}", "n")
    now, order = 60.0, ""
    for _ in range(60):
        lanes.pass_time()
        for one in lanes.decide(now):
            assert isinstance(one, Assignment)
            order += one.model
            now += 2.0 if one.loads else 0.0
            lanes.started(one.call_id, now)
            now += 1.0
            lanes.release(one.call_id, now)
    turns = [len(list(turn)) for _, turn in itertools.groupby(order)]
    assert all(12 <= turn <= 13 for turn in turns[1:-1])  # one is served while the next turn is asked for
    assert len(turns) >= 4  # the other one has its turn after that


def test_a_model_that_is_drained_for_background_goes_on_for_a_person() -> None:
    known = speeds(("a", "m", 2.0, 0.1), ("a", "n", 2.0, 0.1))
    lanes = lanes_of(node("a", ("m", 1, True), ("n", 1, False), max_loaded=1), known=known)
    background(lanes, "long", "m")
    assert placed(lanes.decide(0.0)) == {"long": "a"}
    background(lanes, "more", "m")
    background(lanes, "other", "n")
    lanes.pass_time()
    lanes.decide(10.0)  # "other" has waited for long enough: m gets no new calls
    submit(lanes, "person", "m", 10.1)
    assert preempted(lanes.decide(10.1)) == ["long"]
    lanes.requeue("long", 10.2)
    assert placed(lanes.decide(10.2)) == {"person": "a"}


def test_a_model_that_is_drained_for_background_leaves_at_once_for_a_person() -> None:
    known = speeds(("a", "m", 2.0, 0.1), ("a", "n", 2.0, 0.1))
    lanes = lanes_of(node("a", ("m", 1, True), ("n", 1, False), max_loaded=1), known=known)
    background(lanes, "long", "m")
    assert placed(lanes.decide(0.0)) == {"long": "a"}
    background(lanes, "more", "m")
    background(lanes, "other", "n")
    lanes.pass_time()
    lanes.decide(10.0)
    submit(lanes, "person", "n", 10.1)
    assert preempted(lanes.decide(10.1)) == ["long"]
    lanes.requeue("long", 10.2)
    assert placed(lanes.decide(10.2)) == {"person": "a"}


def test_a_call_that_avoids_a_node_holds_up_nobody_who_may_go_there() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)), node("b", ("m", 1, True)))
    submit(lanes, "runs")
    (taken,) = placed(lanes.decide(0.0)).values()
    free = "b" if taken == "a" else "a"
    submit(lanes, "failed there", avoid={free: inf})
    submit(lanes, "behind")
    assert placed(lanes.decide(0.1)) == {"behind": free}
    lanes.release("runs", 1.0)
    assert placed(lanes.decide(1.0)) == {"failed there": taken}


def test_what_background_counts_on_sends_no_person_to_a_slower_node() -> None:
    known = speeds(
        ("fast", "m", 2.0, 0.002),
        ("fast", "n", 2.0, 0.002),
        ("slow", "m", 2.0, 0.02),
        ("slow", "n", 9.0, 1.0),
    )
    nodes = [
        node("fast", ("m", 1, True), ("n", 1, True), max_loaded=2),
        node("slow", ("m", 1, True), ("n", 1, False), max_loaded=1),
    ]
    lanes = lanes_of(*nodes, known=known)
    submit(lanes, "runs", "m")
    submit(lanes, "runs too", "n")
    assert placed(lanes.decide(0.0)) == {"runs": "fast", "runs too": "fast"}
    lanes.started("runs", 0.0)
    lanes.started("runs too", 0.0)
    for number in range(10):
        background(lanes, f"job{number}", "n")
    lanes.pass_time()
    lanes.decide(0.0)  # every job counts on the fast node
    submit(lanes, "person", "m", 0.1)
    assert placed(lanes.decide(0.1)) == {}  # half a second there is sooner than five elsewhere
    lanes.release("runs", 0.5)
    assert placed(lanes.decide(0.5)) == {"person": "fast"}


def test_a_stage_of_distinct_models_costs_one_load_each() -> None:
    models = [(name, 2, False) for name in ("m1", "m2", "m3")]
    lanes = lanes_of(*(node(name, *models, max_loaded=1) for name in ("a", "b", "c")))
    for name, _, _ in models:
        submit(lanes, name, name)
    first = placed(lanes.decide(0.0))
    assert sorted(first.values()) == ["a", "b", "c"]
    for name in first:
        lanes.started(name, 5.0)
        lanes.release(name, 10.0, DONE)
    for name, _, _ in reversed(models):
        submit(lanes, f"review {name}", name)
    second = placed(lanes.decide(10.0))
    assert {call.removeprefix("review "): where for call, where in second.items()} == first


def test_a_node_that_was_slowed_for_a_while_is_tried_again_on_a_quiet_cluster() -> None:
    views = (node("quick", ("m", 4, True)), node("steady", ("m", 4, True)))
    known = speeds(("quick", "m", 1.0, 0.02), ("steady", "m", 1.0, 0.04), sharing=0.3)
    lanes = lanes_of(*views, known=known)
    numbers = itertools.count()
    now = 0.0

    def where(slowed: bool) -> str:
        """Where one call goes, which takes five times as long on the slowed node."""
        nonlocal now
        call_id = f"call {next(numbers)}"
        submit(lanes, call_id, now=now)
        place = placed(lanes.decide(now))[call_id]
        token_s = 0.04 if place == "steady" else 0.1 if slowed else 0.02
        now += 256 * token_s
        lanes.release(call_id, now, Sample(400, 256, 0.0, 40 * token_s, 256 * token_s))
        return place

    def for_an_hour(slowed: bool) -> list[str]:
        """The places of a call a minute, with heartbeats between them."""
        nonlocal now
        places: list[str] = []
        for _ in range(60):
            for beat in range(2):
                for view in views:
                    lanes.know(view, now + 30 * beat)
            now += 60
            places.append(where(slowed))
        return places

    assert [where(slowed=False) for _ in range(10)] == ["quick"] * 10
    while_slow = for_an_hour(slowed=True)
    assert 1 <= while_slow[5:].count("quick") <= 5, "it is tried now and then, and left again"
    afterwards = for_an_hour(slowed=False)
    assert afterwards[-20:] == ["quick"] * 20
