"""The window of the night on the wall's clock: pure. Times are aware, in the zone of the people here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

STEP_BACK = timedelta(minutes=5)


@dataclass(slots=True)
class NightWindow:
    """From `start` to `end` o'clock, across midnight where `start` is the later; equal hours: the whole day.

    It goes by what the clock on the wall shows, so that the two nights of a year in which clocks are changed
    have an hour more and an hour less. A clock that is set back by less than five minutes, as one that is
    corrected over the network, does not open or close the window again.
    """

    enabled: bool
    start: int
    end: int
    _latest: datetime | None = None

    def is_open(self, wall: datetime) -> bool:
        """Whether it is night at this moment."""
        return self.enabled and self._holds(self._steady(wall).hour)

    def changes_at(self, wall: datetime) -> datetime | None:
        """When it opens or closes next; `None` where it never does."""
        if not self.enabled or self.start == self.end:
            return None
        now = self._steady(wall)
        hour = self.end if self._holds(now.hour) else self.start
        naive = datetime.combine(now.date(), time(hour))
        if naive <= now.replace(tzinfo=None):
            naive += timedelta(days=1)
        # Through UTC: an hour that the clock leaps over begins where it lands.
        return naive.replace(tzinfo=now.tzinfo).astimezone(UTC).astimezone(now.tzinfo)

    def _holds(self, hour: int) -> bool:
        if self.start == self.end:
            return True
        if self.start < self.end:
            return self.start <= hour < self.end
        return hour >= self.start or hour < self.end

    def _steady(self, wall: datetime) -> datetime:
        """The time, or the latest that was seen where the clock was set back by very little."""
        latest = self._latest
        # Compared in UTC: within one zone Python compares what clocks show, which repeats itself once a year.
        if latest is not None and timedelta(0) < latest.astimezone(UTC) - wall.astimezone(UTC) < STEP_BACK:
            return latest
        self._latest = wall
        return wall
