"""When people are usually there, by hour of the week: pure. Hours are those of the clock on the wall.

Each hour that was watched counts once a week, and what was learned fades by a quarter a week, so that a new
habit shows after two weeks. An hour counts as usual where people were there in half of its weeks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby

HOURS = 168
KEPT_A_WEEK = 0.75
USUAL = 0.5
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class HourOfWeek:
    """Weeks in which the hour was watched, and in which people were there; both faded."""

    active: float = 0.0
    watched: float = 0.0

    @property
    def is_usual(self) -> bool:
        return self.watched > 0 and self.active / self.watched >= USUAL

    def after(self, *, active: bool) -> HourOfWeek:
        """One more week."""
        return HourOfWeek(self.active * KEPT_A_WEEK + active, self.watched * KEPT_A_WEEK + 1.0)


@dataclass(slots=True)
class Pattern:
    """What was learned of each hour of the week (0: Monday from midnight), and the hour that runs."""

    hours: dict[int, HourOfWeek] = field(default_factory=dict)
    _running: datetime | None = None
    _was_active: bool = False
    _from_its_start: bool = False

    def watch(self, wall: datetime, *, active: bool) -> int | None:
        """Somebody is there or not, now; the hour of the week that has just been learned, if one has.

        Of an hour that was watched in part only its activity counts: silence of a minute says nothing.
        """
        hour = wall.replace(minute=0, second=0, microsecond=0)
        learned = None
        if self._running is not None and hour != self._running:
            whole = hour.astimezone(UTC) - self._running.astimezone(UTC) == timedelta(hours=1)
            if self._was_active or (whole and self._from_its_start):
                learned = hour_of_week(self._running)
                self.hours[learned] = self.hours.get(learned, HourOfWeek()).after(active=self._was_active)
        if hour != self._running:
            self._from_its_start = self._running is not None or wall.minute == 0
            self._running, self._was_active = hour, False
        self._was_active = self._was_active or active
        return learned


def hour_of_week(wall: datetime) -> int:
    return wall.weekday() * 24 + wall.hour


def expected_quiet_s(now: datetime, pattern: Mapping[int, HourOfWeek]) -> float | None:
    """How long nobody is expected, in seconds: 0 at an hour at which people usually come, a week at most.

    `None`: too little is known, for a hundred hours of the week have to have been watched.
    """
    if len(pattern) < 100:
        return None
    start = now.replace(minute=0, second=0, microsecond=0)
    for ahead in range(HOURS):
        # Through UTC, so that the hours of a change of clocks are neither skipped nor counted twice.
        then = (start.astimezone(UTC) + timedelta(hours=ahead)).astimezone(now.tzinfo)
        known = pattern.get(hour_of_week(then))
        if known is not None and known.is_usual:
            return max((then.astimezone(UTC) - now.astimezone(UTC)).total_seconds(), 0.0)
    return HOURS * 3600.0


def usual_times(pattern: Mapping[int, HourOfWeek]) -> list[str]:
    """When people are usually there, as people say it: "Mon-Fri 9-12, 14-18"."""
    days = [_spans([hour for hour in range(24) if _is_usual(pattern, day * 24 + hour)]) for day in range(7)]
    found: list[str] = []
    for spans, same in groupby(range(7), key=lambda day: days[day]):
        run = list(same)
        if spans:
            name = _DAYS[run[0]] if len(run) == 1 else f"{_DAYS[run[0]]}-{_DAYS[run[-1]]}"
            found.append(f"{name} {spans}")
    return found


def _is_usual(pattern: Mapping[int, HourOfWeek], hour: int) -> bool:
    return hour in pattern and pattern[hour].is_usual


def _spans(hours: list[int]) -> str:
    spans: list[list[int]] = []
    for hour in hours:
        if spans and spans[-1][1] == hour:
            spans[-1][1] = hour + 1
        else:
            spans.append([hour, hour + 1])
    return ", ".join(f"{start}-{end}" for start, end in spans)
