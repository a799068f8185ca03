"""When people are there, learned by hour of the week, and what long work makes of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.background.pattern import (
    HOURS,
    HourOfWeek,
    Pattern,
    expected_quiet_s,
    hour_of_week,
    usual_times,
)
from tests.unit.background.gate_table import BERLIN, Table, no_caps

MONDAY = datetime(2026, 6, 1, 0, 0, tzinfo=BERLIN)


def later(wall: datetime, **by: float) -> datetime:
    return (wall.astimezone(UTC) + timedelta(**by)).astimezone(wall.tzinfo)


def lived(pattern: Pattern, start: datetime, hours: int, there: Callable[[datetime], bool]) -> datetime:
    """Watch so many hours, four times each."""
    wall = start
    for _ in range(hours * 4):
        pattern.watch(wall, active=there(wall))
        wall = later(wall, minutes=15)
    return wall


def office(wall: datetime) -> bool:
    return wall.weekday() < 5 and wall.hour in (9, 10, 11, 14, 15)


def test_a_week_of_office_hours_is_told_as_people_say_it() -> None:
    pattern = Pattern()
    lived(pattern, MONDAY, HOURS + 1, office)
    assert usual_times(pattern.hours) == ["Mon-Fri 9-12, 14-16"]
    assert len(pattern.hours) == HOURS


def test_one_sign_of_activity_makes_an_hour_one_in_which_people_were_there() -> None:
    pattern = Pattern()
    pattern.watch(MONDAY.replace(hour=9), active=False)
    pattern.watch(MONDAY.replace(hour=9, minute=17), active=True)
    pattern.watch(MONDAY.replace(hour=9, minute=59), active=False)
    assert pattern.watch(MONDAY.replace(hour=10), active=False) == 9
    assert pattern.hours == {9: HourOfWeek(1.0, 1.0)}


def test_of_an_hour_that_was_watched_in_part_silence_says_nothing() -> None:
    pattern = Pattern()
    pattern.watch(MONDAY.replace(hour=9, minute=58), active=False)
    assert pattern.watch(MONDAY.replace(hour=10), active=False) is None
    assert pattern.watch(MONDAY.replace(hour=11), active=False) == 10
    assert pattern.watch(MONDAY.replace(hour=17), active=False) is None  # it was off, or slept
    assert pattern.hours == {10: HourOfWeek(0.0, 1.0)}


def test_a_new_habit_shows_after_two_weeks_and_an_old_one_fades() -> None:
    pattern = Pattern()
    wall = lived(pattern, MONDAY, HOURS * 8, lambda wall: wall.hour == 9)
    wall = lived(pattern, wall, HOURS, lambda wall: wall.hour == 20)
    assert usual_times(pattern.hours) == ["Mon-Sun 9-10"]
    wall = lived(pattern, wall, HOURS * 2 + 1, lambda wall: wall.hour == 20)
    assert usual_times(pattern.hours) == ["Mon-Sun 20-21"]


def test_the_time_until_people_come_is_told_once_most_of_a_week_is_known() -> None:
    pattern = Pattern()
    wall = lived(pattern, MONDAY, 90, office)
    assert expected_quiet_s(wall, pattern.hours) is None
    lived(pattern, wall, HOURS, office)
    at = MONDAY + timedelta(days=14)
    assert expected_quiet_s(at.replace(hour=8, minute=30), pattern.hours) == 1800
    assert expected_quiet_s(at.replace(hour=10, minute=5), pattern.hours) == 0
    assert expected_quiet_s(at.replace(hour=12), pattern.hours) == 2 * 3600
    friday = at + timedelta(days=4)
    assert expected_quiet_s(friday.replace(hour=16), pattern.hours) == (8 + 48 + 9) * 3600


def test_a_house_without_people_expects_nobody_for_a_week() -> None:
    assert expected_quiet_s(MONDAY, {hour: HourOfWeek(0.0, 1.0) for hour in range(HOURS)}) == HOURS * 3600


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 8), ("2026-10-25", 10)], ids=["spring forward", "autumn back"]
)
def test_a_night_with_a_change_of_clocks_has_its_own_length(day: str, hours: int) -> None:
    pattern = {hour: HourOfWeek(1.0 if hour % 24 == 9 else 0.0, 1.0) for hour in range(HOURS)}
    midnight = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
    assert expected_quiet_s(midnight, pattern) == hours * 3600


@given(
    usual=st.sets(st.integers(0, HOURS - 1)),
    at=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC)),
)
def test_what_is_expected_is_an_hour_that_is_usual(usual: set[int], at: datetime) -> None:
    pattern = {hour: HourOfWeek(float(hour in usual), 1.0) for hour in range(HOURS)}
    found = expected_quiet_s(at, pattern)
    assert found is not None
    if not usual:
        assert found == HOURS * 3600
        return
    assert hour_of_week(at + timedelta(seconds=found)) in usual
    for ahead in range(int(found // 3600)):
        assert hour_of_week(at + timedelta(hours=ahead)) not in usual or found == 0


# -- what the gate makes of it ------------------------------------------------------------------------------


def test_long_work_does_not_begin_shortly_before_people_come() -> None:
    table = Table(rules=no_caps())
    table.run(2000)
    assert table.is_open(long=True)
    table.gate.expected_use_s = 600.0
    assert table.is_open()
    assert not table.is_open(long=True)
    assert table.said(long=True) == (
        "waiting: people usually come in 10 min; 27 min until they seem to stay away"
    )
    table.gate.expected_use_s = 3600.0
    assert table.is_open(long=True)


def test_long_work_begins_where_people_stay_away_at_their_usual_hour() -> None:
    table = Table(rules=no_caps())
    table.gate.expected_use_s = 0.0
    table.run(3500)
    assert table.said(long=True).startswith("waiting: people usually come at this hour;")
    table.run(110)
    assert table.is_open(long=True)
