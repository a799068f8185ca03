"""When background work may run, as a table of scenarios under a simulated clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.background.gate import Gate, Rules
from master.background.host_holds import Caps, HostSample
from master.background.night import NightWindow
from master.background.states import OPEN, TRANSITIONS, GateState
from tests.unit.background.gate_table import BERLIN, FREE, NOON, Table, load

IDLE, LONG_IDLE, NIGHT = GateState.IDLE, GateState.LONG_IDLE, GateState.NIGHT
ACTIVE, COOLING, HELD = GateState.ACTIVE, GateState.COOLING, GateState.HELD


def idle_table(**fields: object) -> Table:
    """A table whose gate has just opened."""
    table = Table(**fields)  # type: ignore[arg-type]
    table.run(301)
    assert table.state is IDLE
    return table


# -- quiet times --------------------------------------------------------------------------------------------


def test_quiet_leads_from_active_over_cooling_and_idle_to_long_idle() -> None:
    table = Table()
    table.run(1801)
    assert [one.after for one in table.moves if one.node is None] == [COOLING, IDLE, LONG_IDLE]
    opened = next(at for at, state in table.seen if state is IDLE)
    assert opened - 1000.0 == pytest.approx(300, abs=5)


def test_long_jobs_wait_for_a_long_idle_time() -> None:
    table = idle_table()
    assert table.is_open()
    assert not table.is_open(long=True)
    assert table.said(long=True) == "waiting: 25 min until long idle"
    table.run(1500)
    assert table.is_open(long=True)


def test_activity_closes_the_gate_at_once_and_the_time_begins_anew() -> None:
    table = idle_table()
    table.use()
    assert table.state is ACTIVE
    assert not table.is_open("pc1")
    table.run(299)
    assert table.state is COOLING
    table.run(2)
    assert table.state is IDLE


def test_the_gate_stays_shut_for_as_long_as_something_interactive_runs() -> None:
    table = idle_table()
    table.gate.begin(table.now)
    table.decide()
    table.run(4000)
    assert (table.state, table.said()) == (ACTIVE, "waiting: an interactive call runs")
    assert table.gate.next_due(table.now, table.wall) == pytest.approx(float("inf"))
    table.gate.end(table.now)
    table.run(299)
    assert table.state is COOLING
    table.run(2)
    assert table.state is IDLE


def test_use_of_one_machine_leaves_the_others_to_work() -> None:
    table = idle_table(nodes=("pc1", "pc2"))
    table.use("pc1")
    assert not table.is_open("pc1")
    assert table.is_open("pc2")
    assert table.is_open()
    assert table.said("pc1") == "waiting: 300 s until idle"


def test_an_hour_that_was_slept_through_is_made_up_by_moves_of_the_table() -> None:
    table = Table()
    table.pass_time(3600)
    table.look()
    assert table.state is LONG_IDLE
    assert [one.after for one in table.moves if one.node is None] == [COOLING, IDLE, LONG_IDLE]


# -- CPU, memory, battery -----------------------------------------------------------------------------------


@pytest.mark.parametrize("period_s", [2, 10, 20, 40, 60, 110])
@pytest.mark.parametrize("high", [0.55, 0.95])
def test_cpu_that_oscillates_for_ten_minutes_moves_the_gate_twice_at_most(period_s: int, high: float) -> None:
    table = idle_table()
    before = table.openings()
    for second in range(600):
        table.loads["pc1"] = load(cpu=high if second % period_s < period_s / 2 else 0.05)
        table.run(1, every_s=1)
    assert table.openings() - before <= 2


@pytest.mark.parametrize("period_s", [130, 240, 480])
def test_a_slow_swing_of_the_cpu_opens_the_gate_six_times_an_hour_at_most(period_s: int) -> None:
    table = idle_table()
    for second in range(4 * 3600):
        table.loads["pc1"] = load(cpu=0.9 if second % period_s < period_s / 2 else 0.05)
        if second % 5 == 0:
            table.run(5)
    opened = [at for (_, before), (at, state) in pairwise(table.seen) if state.is_open and not before.is_open]
    assert all(later - earlier >= 600 for earlier, later in pairwise(opened[6:]))


def test_one_short_spike_stops_nothing() -> None:
    table = idle_table()
    table.loads["pc1"] = load(cpu=0.65)
    table.run(5)
    table.loads["pc1"] = FREE
    table.run(60)
    assert table.openings() == 1


def test_a_cpu_far_over_the_cap_stops_work_at_the_first_look() -> None:
    table = idle_table()
    table.run(30)
    table.loads["pc1"] = load(cpu=1.0)
    table.run(15, every_s=15)
    assert table.state is HELD
    assert table.said() == "waiting: CPU 78 % > 50 %"


def test_the_reasons_are_told_together() -> None:
    table = Table(loads={"pc1": load(cpu=0.61)})
    table.run(158)
    assert table.said() == "waiting: 142 s until idle; CPU 61 % > 50 %"
    table.run(143)
    assert table.said() == "waiting: CPU 61 % > 50 %"


def test_work_goes_to_the_idle_node_while_another_is_busy() -> None:
    table = idle_table(nodes=("pc1", "pc2"))
    table.loads["pc1"] = load(cpu=0.95)
    table.run(30)
    assert (table.is_open("pc1"), table.is_open("pc2"), table.is_open()) == (False, True, True)
    table.loads["pc2"] = load(memory=0.9)
    table.run(10)
    assert table.state is HELD
    assert table.said() == "waiting: pc1: CPU 93 % > 50 %; pc2: memory 90 % > 75 %"


def test_a_machine_that_was_held_goes_on_when_it_was_calm_for_a_minute() -> None:
    table = idle_table()
    table.loads["pc1"] = load(cpu=0.9)
    table.run(20)
    table.loads["pc1"] = load(cpu=0.1)
    table.run(70)
    assert table.state is HELD
    assert "below 29 % for 60 s" in table.said()
    table.run(20)
    assert table.state is IDLE


def test_a_machine_that_is_always_a_little_busy_is_not_held_for_ever() -> None:
    table = idle_table()
    table.loads["pc1"] = load(cpu=0.9)
    table.run(20)
    table.loads["pc1"] = load(cpu=0.4)
    table.run(500)
    assert table.state is HELD
    table.run(130)
    assert table.state.is_open


def test_above_the_memory_cap_nothing_starts_and_what_runs_has_ten_points_more() -> None:
    closed = Table(loads={"pc1": load(memory=0.8)})
    closed.run(400)
    assert closed.said() == "waiting: memory 80 % > 75 %"
    runs = idle_table()
    runs.loads["pc1"] = load(memory=0.8)
    runs.run(60)
    assert runs.state is IDLE
    runs.loads["pc1"] = load(memory=0.86)
    runs.run(5)
    assert runs.state is HELD


def test_little_free_memory_holds_whoever_uses_it() -> None:
    table = Table(loads={"pc1": HostSample(foreign_cpu=0.0, foreign_memory=0.2, free_memory=0.03)})
    table.run(400)
    assert table.said() == "waiting: only 3 % of its memory is free"


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (load(on_battery=True), "it runs on battery"),
        (load(exclusive=("blender",)), "blender runs there"),
    ],
    ids=["battery", "exclusive"],
)
def test_battery_and_exclusive_programs_stop_work_at_once_and_for_a_minute_after(
    sample: HostSample, reason: str
) -> None:
    table = idle_table()
    table.loads["pc1"] = sample
    table.run(5)
    assert table.said() == f"waiting: {reason}"
    table.loads["pc1"] = FREE
    table.run(60)
    assert table.state is HELD
    assert "a moment ago" in table.said()
    table.run(10)
    assert table.state is IDLE


def test_a_laptop_may_be_told_to_work_on_battery() -> None:
    table = Table(rules=Rules(caps=Caps(on_battery=True)), loads={"pc1": load(on_battery=True)})
    table.run(310)
    assert table.state is IDLE


def test_caps_of_one_hold_nothing() -> None:
    table = Table(rules=Rules(caps=Caps(max_cpu=1.0, max_memory=1.0)), loads={"pc1": load(1.0, 1.0)})
    table.run(310)
    assert table.state is IDLE


def test_a_cpu_that_cannot_be_known_holds_nothing() -> None:
    table = idle_table()
    table.loads["pc1"] = HostSample(foreign_cpu=None, foreign_memory=0.3, free_memory=0.5)
    table.run(120)
    assert table.state is IDLE


def test_a_machine_that_falls_silent_is_closed_after_a_minute_and_opens_when_it_speaks() -> None:
    table = idle_table()
    for _ in range(13):
        table.pass_time(5)
        table.decide()
    assert table.state is HELD
    assert "told nothing of its CPU and memory for" in table.said()
    table.run(30)
    assert table.state is IDLE


def test_each_interruption_soon_after_the_last_doubles_the_pause_up_to_ten_minutes() -> None:
    table = Table(night=NightWindow(True, 0, 0))
    pauses = []
    for _ in range(8):
        while not table.state.is_open:
            table.run(1, every_s=1)
        table.use()
        closed = table.now
        while not table.state.is_open:
            table.run(1, every_s=1)
        pauses.append(round(table.now - closed))
    assert pauses == [20, 40, 80, 160, 320, 600, 600, 600]


def test_a_quiet_hour_forgives_earlier_interruptions() -> None:
    table = Table(night=NightWindow(True, 0, 0))
    for _ in range(4):
        table.run(700)
        table.use()
        table.run(21, every_s=1)
        assert table.state is NIGHT


# -- the night ----------------------------------------------------------------------------------------------


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def test_the_window_opens_at_22_and_closes_at_6_across_midnight() -> None:
    table = Table(night=NightWindow(True, 22, 6), wall=at("2026-07-01T21:59:00"))
    table.run(65)
    assert table.state is NIGHT
    assert table.is_open(long=True)
    assert table.said() == "open: the night's window, until 06:00"
    table.run(8 * 3600, every_s=30)
    assert table.state is LONG_IDLE
    assert [one.after for one in table.moves if one.node is None] == [COOLING, NIGHT, LONG_IDLE]


@pytest.mark.parametrize(
    ("evening", "hours"),
    [("2026-03-28", 7), ("2026-10-24", 9), ("2026-07-01", 8)],
    ids=["spring forward", "autumn back", "ordinary"],
)
def test_a_night_with_a_change_of_clocks_is_one_window(evening: str, hours: int) -> None:
    table = Table(
        rules=Rules(idle_s=10**6, long_idle_s=10**6),
        night=NightWindow(True, 22, 6),
        wall=at(f"{evening}T20:00:00"),
    )
    table.run(14 * 3600, every_s=30)
    assert table.openings() == 2
    assert table.open_s() == pytest.approx(hours * 3600, abs=60)


@pytest.mark.parametrize("evening", ["2026-03-28", "2026-10-24", "2026-07-01"])
def test_the_next_change_of_the_window_is_foretold(evening: str) -> None:
    window = NightWindow(True, 22, 6)
    opens = window.changes_at(at(f"{evening}T20:00:00"))
    assert opens == at(f"{evening}T22:00:00")
    closes = window.changes_at(at(f"{evening}T22:30:00"))
    assert closes is not None
    assert (closes.hour, closes.minute) == (6, 0)


def test_a_window_that_opens_in_the_hour_that_is_leapt_over_opens_where_the_clock_lands() -> None:
    window = NightWindow(True, 2, 6)
    opens = window.changes_at(at("2026-03-29T01:30:00"))
    assert opens is not None
    assert opens.astimezone(UTC) == at("2026-03-29T03:00:00").astimezone(UTC)
    assert not window.is_open(at("2026-03-29T01:59:59"))
    assert window.is_open(at("2026-03-29T03:00:00"))


@pytest.mark.parametrize(
    ("hour", "start", "end", "expected"),
    [
        (23, 22, 6, True), (5, 22, 6, True), (6, 22, 6, False), (21, 22, 6, False),
        (3, 1, 5, True), (5, 1, 5, False), (0, 1, 5, False), (12, 7, 7, True),
    ],
)  # fmt: skip
def test_the_window_holds_from_its_first_hour_to_before_its_last(
    hour: int, start: int, end: int, expected: bool
) -> None:
    assert NightWindow(True, start, end).is_open(NOON.replace(hour=hour)) is expected
    assert not NightWindow(False, start, end).is_open(NOON.replace(hour=hour))


def test_a_clock_set_back_changes_nothing_about_quiet_times() -> None:
    table = idle_table()
    table.wall -= timedelta(hours=5)
    table.decide()
    assert table.state is IDLE
    cooling = Table()
    cooling.run(200)
    cooling.wall += timedelta(days=2)
    cooling.run(5)
    assert cooling.state is COOLING
    assert cooling.said() == "waiting: 95 s until idle"


def test_a_clock_that_is_corrected_at_the_edge_of_the_window_does_not_open_it_twice() -> None:
    table = Table(night=NightWindow(True, 22, 6), wall=at("2026-07-01T21:59:00"))
    table.run(70)
    table.wall -= timedelta(seconds=90)
    table.run(120)
    assert [one.after for one in table.moves if one.node is None] == [COOLING, NIGHT]


def test_a_clock_that_is_set_by_hours_is_believed() -> None:
    table = Table(night=NightWindow(True, 22, 6), wall=at("2026-07-01T23:00:00"))
    table.run(60)
    assert table.state is NIGHT
    table.wall -= timedelta(hours=3)
    table.run(5)
    assert table.state is COOLING
    table.wall += timedelta(hours=3)
    table.run(5)
    assert table.state is NIGHT


def test_at_night_only_what_runs_right_now_goes_before() -> None:
    table = Table(night=NightWindow(True, 22, 6), wall=at("2026-07-01T23:00:00"))
    table.run(60)
    table.use()
    assert table.state is ACTIVE
    table.run(31)
    assert table.state is NIGHT


def test_caps_hold_at_night_too() -> None:
    table = Table(
        night=NightWindow(True, 22, 6), wall=at("2026-07-01T23:00:00"), loads={"pc1": load(cpu=0.9)}
    )
    table.run(60)
    assert (table.state, table.said()) == (HELD, "waiting: CPU 90 % > 50 %")


# -- the machinery ------------------------------------------------------------------------------------------


def test_without_a_machine_nothing_runs_and_that_is_said() -> None:
    table = Table(nodes=())
    table.run(400)
    assert table.said() == "waiting: no machine has told its CPU and memory yet"
    assert table.said("pc9") == "waiting: nothing is known of pc9 yet"


def test_the_masters_own_machine_counts_only_where_there_is_no_other() -> None:
    table = idle_table(nodes=("this machine",))
    table.nodes = ("this machine", "pc2")
    table.loads["pc2"] = load(cpu=0.9)
    table.run(30)
    assert table.is_open("this machine")
    assert table.state is HELD


def test_every_state_of_the_table_can_be_reached_and_every_one_leads_to_active() -> None:
    assert set(TRANSITIONS) == set(GateState)
    assert {after for moves in TRANSITIONS.values() for after in moves} == set(GateState)
    assert all(ACTIVE in moves for state, moves in TRANSITIONS.items() if state is not ACTIVE)
    assert all(after not in (IDLE, LONG_IDLE) for after in TRANSITIONS[ACTIVE])


EVENTS = st.one_of(
    st.tuples(st.just("sample"), st.sampled_from(["pc1", "pc2"]), st.floats(0, 1), st.floats(0, 1)),
    st.tuples(st.just("use"), st.sampled_from(["pc1", "pc2", None])),
    st.tuples(st.just("begin")),
    st.tuples(st.just("end")),
    st.tuples(st.just("battery"), st.sampled_from(["pc1", "pc2"])),
    st.tuples(st.just("time"), st.floats(0, 2000)),
    st.tuples(st.just("clock"), st.integers(-200_000, 200_000)),
    st.tuples(st.just("forget"), st.sampled_from(["pc1", "pc2"])),
)


@given(events=st.lists(EVENTS, max_size=60), overnight=st.booleans())
def test_whatever_happens_moves_are_of_the_table_and_what_is_open_is_quiet_and_free(
    events: list[tuple[object, ...]], overnight: bool
) -> None:
    table = Table(night=NightWindow(overnight, 22, 6), nodes=())
    gate: Gate = table.gate
    used_at, busy = table.now, 0
    for kind, *rest in events:
        match kind, rest:
            case "sample", (str() as node, float() as cpu, float() as memory):
                gate.sample(node, load(cpu, memory), table.now)
            case "battery", (str() as node,):
                gate.sample(node, load(on_battery=True), table.now)
            case "use", (node,):
                gate.activity(table.now, node)  # type: ignore[arg-type]
                used_at = table.now if node is None else used_at
            case "begin", _:
                gate.begin(table.now)
                busy, used_at = busy + 1, table.now
            case "end", _ if busy:
                gate.end(table.now)
                busy, used_at = busy - 1, table.now
            case "time", (float() as seconds,):
                table.pass_time(seconds)
            case "clock", (int() as step,):
                table.wall += timedelta(seconds=step)
            case "forget", (str() as node,):
                gate.forget(node)
        table.decide()
        assert gate.decide(table.now, table.wall) == []  # decided is decided
        if gate.state in OPEN:
            assert busy == 0
            assert table.now - used_at >= (10 if gate.state is NIGHT else 300)
            assert any(table.is_open(node) for node in gate.machines())
        for node in gate.machines():
            verdict = gate.verdict(table.now, table.wall, node)
            assert verdict.reason.startswith("open: " if verdict.open else "waiting: ")
            assert "the next look" not in verdict.reason
            if verdict.open:
                assert gate.machines()[node].reasons(table.now) == []
        assert gate.next_due(table.now, table.wall) >= 0
    for one in table.moves:
        assert one.after in TRANSITIONS[one.before]
        assert one.reason


@given(samples=st.lists(st.floats(0, 1), min_size=1, max_size=50), cap=st.floats(0.1, 0.99))
def test_work_never_runs_where_others_took_more_than_the_cap_twice(samples: list[float], cap: float) -> None:
    table = Table(rules=Rules(caps=Caps(max_cpu=cap)))
    table.run(301)
    over = 0
    for cpu in samples:
        table.loads["pc1"] = load(cpu=cpu)
        table.run(5)
        over = over + 1 if (table.gate.machines()["pc1"].cpu or 0) > cap else 0
        assert not (over >= 2 and table.is_open("pc1"))
