"""Who goes first, who is kept a slot, and who makes room: claims, and properties over random traffic."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import QueueFullError
from master.cluster.lane_call import Assignment, Expired, Preempt
from master.cluster.lanes import Lanes
from master.cluster.speeds import Sample, Speeds
from tests.unit.cluster.cluster import background, lanes_of, node, placed, preempted, speeds, submit


def test_interactive_calls_go_before_background_ones_that_came_first() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    background(lanes, "background")
    submit(lanes, "chat")
    assert placed(lanes.decide(0.0)) == {"chat": "a"}
    lanes.release("chat", 1.0)
    assert placed(lanes.decide(1.0)) == {"background": "a"}


def test_a_call_that_waits_for_its_model_holds_up_nobody_behind_it() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    submit(lanes, "first", "missing")
    submit(lanes, "second")
    assert placed(lanes.decide(0.0)) == {"second": "a"}


def test_sessions_take_turns_so_that_a_big_council_does_not_starve_a_small_one() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    for number in range(6):
        submit(lanes, f"big{number}", session_id="big")
    submit(lanes, "small", session_id="small")
    order: list[str] = []
    for now in range(7):
        (call_id,) = placed(lanes.decide(float(now)))
        order.append(call_id)
        lanes.release(call_id, now + 0.5)
    assert order.index("small") == 1
    assert [one for one in order if one != "small"] == [f"big{number}" for number in range(6)]


def test_of_two_slots_one_is_kept_for_interactive_calls() -> None:
    lanes = lanes_of(node("a", ("m", 3, True)))
    for number in range(3):
        background(lanes, f"b{number}")
    assert set(placed(lanes.decide(0.0))) == {"b0", "b1"}
    submit(lanes, "chat")
    assert placed(lanes.decide(0.0)) == {"chat": "a"}


def test_a_single_slot_is_used_by_background_which_makes_room_at_once() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    background(lanes, "b")
    assert placed(lanes.decide(0.0)) == {"b": "a"}
    submit(lanes, "chat")
    assert lanes.decide(1.0) == [Preempt("b")]
    assert lanes.decide(1.1) == []
    lanes.requeue("b", 1.2)
    assert placed(lanes.decide(1.2)) == {"chat": "a"}


def test_two_chats_never_pre_empt_more_calls_than_they_need() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)), node("b", ("m", 1, True)), known=speeds(sharing=0.0))
    background(lanes, "b1")
    background(lanes, "b2")
    assert len(placed(lanes.decide(0.0))) == 2
    submit(lanes, "chat")
    assert len(preempted(lanes.decide(1.0))) == 1


def test_a_pre_empted_call_takes_its_old_place_in_the_queue() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    background(lanes, "b1")
    lanes.decide(0.0)
    background(lanes, "b2")
    submit(lanes, "chat")
    lanes.decide(1.0)
    lanes.requeue("b1", 1.1)
    assert placed(lanes.decide(1.1)) == {"chat": "a"}
    lanes.release("chat", 2.0)
    assert placed(lanes.decide(2.0)) == {"b1": "a"}


def test_interactive_work_clears_its_engine_of_background_unless_sharing_is_harmless() -> None:
    cluster = node("a", ("m", 4, True), ("n", 4, True))
    slow, harmless = speeds(("a", "m", 1.0, 0.01), sharing=0.3), speeds(("a", "m", 1.0, 0.01), sharing=0.04)
    for known, expected in ((slow, ["b"]), (harmless, [])):
        lanes = lanes_of(cluster, known=known)
        background(lanes, "b", "n")
        lanes.decide(0.0)
        submit(lanes, "chat")
        effects = lanes.decide(1.0)
        assert placed(effects) == {"chat": "a"}
        assert preempted(effects) == expected


def test_a_chat_for_which_jobs_left_does_not_show_that_sharing_is_harmless() -> None:
    """It was as quick as alone because it was alone: the jobs that it met are pre-empted by the next too."""
    known = Speeds()
    lanes, jobs = lanes_of(node("a", ("m", 4, True)), known=known), ["b1", "b2", "b3"]
    alone = Sample(100, 6, 0.0, 0.3, 0.12)
    _chat(lanes, "alone", 0.0, alone, leaving=[])
    for job in jobs:
        background(lanes, job, now=1.0)
    for number in range(8):
        now = 2.0 + number
        assert set(placed(lanes.decide(now - 0.5))) == set(jobs)
        _chat(lanes, f"chat {number}", now, alone, leaving=jobs)
    assert not known.measured_sharing("a", "main")


def test_what_calls_show_of_sharing_goes_by_the_time_that_they_ran_beside_each_other() -> None:
    """Neither a load, nor who comes for the last moments, changes what four calls on an engine have shown."""
    known = speeds()
    lanes = lanes_of(node("a", ("m", 5, True)), known=known)
    _chat(lanes, "alone", 0.0, Sample(100, 100, 0.0, 0.3, 2.0), leaving=[])
    for number in range(4):
        submit(lanes, f"call {number}", now=1.0)
        assert placed(lanes.decide(1.0 + number)) == {f"call {number}": "a"}
    for number in range(4):
        lanes.started(f"call {number}", 5.0)
    submit(lanes, "late", now=9.9)
    lanes.decide(9.9)
    for number in range(3):  # 0.5 for each of three others
        lanes.release(f"call {number}", 10.0, Sample(100, 100, 0.0, 0.3, 5.0))
    assert known.measured_sharing("a", "main") == pytest.approx(0.5, abs=0.02)


def test_calls_that_wait_for_each_other_inside_an_engine_do_not_show_that_sharing_is_harmless() -> None:
    """Each was as quick as alone because it was alone, however many the engine had been sent."""
    known = speeds()
    lanes = lanes_of(node("a", ("m", 5, True)), known=known)
    alone = Sample(100, 100, 0.0, 0.3, 2.0)
    _chat(lanes, "alone", 0.0, alone, leaving=[])
    for number in range(5):
        submit(lanes, f"call {number}", now=10.0)
    assert len(placed(lanes.decide(10.0))) == 5
    for number in range(5):
        lanes.started(f"call {number}", 10.0)
    for number in range(5):
        lanes.release(f"call {number}", 12.3 * (1 + number), alone)
    assert known.measured_sharing("a", "main") is None


def test_only_a_call_that_loaded_its_model_shows_how_long_a_load_takes() -> None:
    """An engine takes some time over each call before it looks at it, and calls it loading."""
    known = Speeds()
    lanes = lanes_of(node("a", ("m", 2, False), ("other", 2, False)), known=known)

    def load_s() -> float:
        return known.of("a", "main", "m", 0).load_s

    def run(call_id: str, now: float, told_s: float) -> None:
        lanes.started(call_id, now)
        lanes.release(call_id, now + 1.0, Sample(100, 100, told_s, 0.1, 1.0))

    submit(lanes, "loads", now=0.0)
    submit(lanes, "joins", now=9.0)
    lanes.decide(0.0)
    lanes.decide(9.0)
    run("loads", 10.0, 10.0)
    run("joins", 10.0, 1.0)
    assert load_s() == 10.0
    elsewhere = known.of("a", "main", "other", 0).load_s
    for number in range(10):
        submit(lanes, f"call {number}", now=20.0 + number)
        lanes.decide(20.0 + number)
        run(f"call {number}", 20.0 + number, 0.1)
    assert load_s() == 10.0
    assert known.of("a", "main", "other", 0).load_s == elsewhere
    submit(lanes, "evicted", now=50.0)
    lanes.decide(50.0)
    run("evicted", 57.0, 7.0)
    assert 7.0 < load_s() < 10.0, "the node had to load it after all"


def _chat(lanes: Lanes, call_id: str, now: float, shown: Sample, *, leaving: list[str]) -> None:
    """A chat that takes 0.42 s and is the only one to stay; who leaves for it is gone after 5 ms."""
    submit(lanes, call_id, now=now)
    effects = lanes.decide(now)
    assert call_id in placed(effects)
    assert sorted(preempted(effects)) == leaving
    for one in leaving:
        lanes.requeue(one, now + 0.005)
    lanes.decide(now + 0.005)
    lanes.started(call_id, now + 0.01)
    lanes.release(call_id, now + 0.42, shown)


def test_background_does_not_start_beside_interactive_work_on_the_same_engine() -> None:
    lanes = lanes_of(node("a", ("m", 4, True)), node("b", ("m", 4, True)))
    submit(lanes, "chat")
    (where,) = placed(lanes.decide(0.0)).values()
    background(lanes, "job")
    assert placed(lanes.decide(0.0))["job"] != where


def test_background_that_has_aged_goes_before_newer_interactive_calls_and_stays() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)), age_s=100.0)
    submit(lanes, "first")
    lanes.decide(0.0)
    background(lanes, "job")
    submit(lanes, "chat", now=99.0)
    lanes.pass_time()
    lanes.release("first", 101.0)
    assert placed(lanes.decide(101.0)) == {"job": "a"}
    assert preempted(lanes.decide(102.0)) == []
    lanes.release("job", 103.0)
    assert placed(lanes.decide(103.0)) == {"chat": "a"}


def test_a_call_past_its_deadline_is_told_so_and_forgotten() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    submit(lanes, "runs", deadline=5.0)
    submit(lanes, "waits", deadline=5.0)
    lanes.decide(0.0)
    assert lanes.decide(6.0) == [Expired("waits")]
    assert lanes.waiting == 0


def test_the_time_in_which_a_pre_empted_call_ran_was_no_waiting() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    background(lanes, "job", deadline=100.0)
    lanes.decide(0.0)
    submit(lanes, "chat", now=150.0)
    assert lanes.decide(150.0) == [Preempt("job")]
    lanes.requeue("job", 150.0)
    assert placed(lanes.decide(150.0)) == {"chat": "a"}
    assert lanes.decide(249.0) == []
    assert lanes.decide(250.0) == [Expired("job")]


def test_positions_count_those_who_wait_for_the_same_model() -> None:
    lanes = lanes_of()
    for call_id, model in (("a", "m"), ("b", "n"), ("c", "M:latest")):
        submit(lanes, call_id, model)
    background(lanes, "d")
    assert lanes.positions() == lanes.moved() == {"a": 1, "b": 1, "c": 2, "d": 3}
    assert [lanes.position(one) for one in "abcd"] == [1, 1, 2, 3]
    assert lanes.moved() == {}


def test_a_full_queue_refuses_with_a_time_to_come_back_that_grows_with_the_queue() -> None:
    def retry_after(count: int) -> float:
        known = speeds(("a", "m", 1.0, 0.05))
        lanes = lanes_of(node("a", ("m", 1, True)), known=known, max_waiting=count)
        for number in range(count + 1):
            submit(lanes, f"c{number}")
            lanes.decide(0.0)
        with pytest.raises(QueueFullError) as refused:
            submit(lanes, "one more")
        return float(refused.value.headers["Retry-After"])

    assert 1 <= retry_after(2) < retry_after(60) <= 120


def test_who_waits_hears_when_it_is_expected_to_start_and_nobody_else_does() -> None:
    known = speeds(("a", "m", 1.0, 0.01))  # 400 tokens read and 256 written take 2.96 s
    lanes = lanes_of(node("a", ("m", 1, True)), known=known)
    for number in range(4):
        submit(lanes, f"c{number}")
    lanes.decide(0.0)
    assert "c0" not in lanes.positions()
    told = lanes.estimates(lanes.positions(), 1.0)
    assert told["c1"] == pytest.approx(1.96, abs=0.1)
    assert told["c2"] - told["c1"] == pytest.approx(told["c3"] - told["c2"], abs=0.11)
    assert 2.0 < told["c3"] - told["c2"] < 5.0
    submit(lanes, "nobody has it", "n")
    assert lanes.estimates({"nobody has it": 1, "gone": 1}, 1.0) == {}


def test_background_that_leaves_the_kept_slot_alone_hears_when_its_own_is_free() -> None:
    lanes = lanes_of(node("a", ("m", 2, True)), known=speeds(("a", "m", 1.0, 0.01)))
    background(lanes, "runs")
    background(lanes, "waits")
    lanes.decide(0.0)
    assert lanes.estimates(lanes.positions(), 1.0)["waits"] == pytest.approx(1.96, abs=0.1)


def test_background_fills_half_of_the_queue_at_most() -> None:
    lanes = lanes_of(max_waiting=4)
    background(lanes, "b1")
    background(lanes, "b2")
    with pytest.raises(QueueFullError):
        background(lanes, "b3")
    submit(lanes, "chat")


def test_a_slot_is_given_back_once_however_often_it_is_released() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    for call_id in ("one", "two", "three"):
        submit(lanes, call_id)
    assert len(placed(lanes.decide(0.0))) == 1
    lanes.release("one", 1.0)
    lanes.release("one", 1.0)
    assert len(placed(lanes.decide(1.0))) == 1
    assert lanes.decide(1.0) == []


def test_a_node_that_probes_gets_one_call_until_it_is_known_anew() -> None:
    lanes = lanes_of(node("a", ("m", 4, True), probing=True))
    submit(lanes, "one")
    submit(lanes, "two")
    assert len(placed(lanes.decide(0.0))) == 1
    lanes.know(node("a", ("m", 4, True)), 1.0)
    assert len(placed(lanes.decide(1.0))) == 1


def test_calls_of_a_node_that_was_removed_can_still_end() -> None:
    lanes = lanes_of(node("a", ("m", 1, True)))
    submit(lanes, "one")
    lanes.decide(0.0)
    lanes.forget("a")
    lanes.release("one", 1.0)
    submit(lanes, "two")
    assert lanes.decide(1.0) == []
    lanes.know(node("a", ("m", 1, True)), 2.0)
    assert placed(lanes.decide(2.0)) == {"two": "a"}


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"), st.sampled_from(["m", "n"]), st.sampled_from(["interactive", "background"])
        ),
        st.tuples(st.just("end"), st.integers(0, 30), st.none()),
        st.tuples(st.just("withdraw"), st.integers(0, 30), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([1, 40, 200]), st.none()),
        st.tuples(st.just("flip"), st.sampled_from([0, 1]), st.none()),
    ),
    max_size=60,
)


@given(steps)
def test_no_slot_is_exceeded_and_no_call_lost_or_doubled(actions: list[tuple[str, object, object]]) -> None:
    usable = [True, True]

    def views(index: int) -> object:
        if index == 0:
            return node("a", ("m", 2, True), ("n", 1, False), usable=usable[0], max_loaded=1)
        return node("b", ("m", 1, True), usable=usable[1])

    slots = {("a", "m"): 2, ("a", "n"): 1, ("b", "m"): 1}
    lanes = lanes_of(views(0), views(1))  # type: ignore[arg-type]  # views of the two
    submitted: list[str] = []
    gone: set[str] = set()
    held: dict[str, Assignment] = {}
    leaving: set[str] = set()
    ended: set[str] = set()
    now = 0.0
    for kind, value, call_class in actions:
        now += 0.1
        if kind == "submit":
            call_id = f"c{len(submitted)}"
            submitted.append(call_id)
            submit(lanes, call_id, str(value), now, call_class=call_class)
        elif kind == "wait":
            assert isinstance(value, int)
            now += value
            lanes.pass_time()
        elif kind == "flip":
            assert isinstance(value, int)
            usable[value] = not usable[value]
            lanes.know(views(value), now)  # type: ignore[arg-type]  # a view
        elif submitted and isinstance(value, int):
            call_id = submitted[value % len(submitted)]
            if kind == "end" and call_id in held:
                del held[call_id]
                if call_id in leaving:
                    leaving.discard(call_id)
                    lanes.requeue(call_id, now)
                else:
                    lanes.release(call_id, now)
                    ended.add(call_id)
            elif kind == "withdraw" and call_id not in held and call_id not in ended:
                lanes.withdraw(call_id)
                gone.add(call_id)
        for one in lanes.decide(now):
            if isinstance(one, Assignment):
                assert one.call_id not in held
                held[one.call_id] = one
            elif isinstance(one, Preempt):
                assert one.call_id in held
                assert one.call_id not in leaving
                leaving.add(one.call_id)
        running = Counter((one.node, one.model) for one in held.values())
        assert all(count <= slots[place] for place, count in running.items())
    parts = [set(held), ended, gone, set(lanes.positions())]
    assert set().union(*parts) == set(submitted)
    assert sum(map(len, parts)) == len(submitted)
