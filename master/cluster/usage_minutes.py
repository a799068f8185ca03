"""CPU and memory of machines, engines and our own processes, by the minute: pure; samples and times come in.

`machine` is the whole PC, `main` and `background` its engines, `node` and `master` our own programs. CPU is
in percent of the whole machine, so that parts add up and machines compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT_S = 24 * 3600
MINUTE_S = 60
MOST_POINTS = 720


@dataclass(frozen=True, slots=True)
class Use:
    """What one part takes now. `None`: it cannot be known."""

    cpu_percent: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class UsageMinute:
    """One part of one machine in the minute that began at `at` (Unix seconds): mean and highest CPU, and the
    most memory.
    """

    node: str
    part: str
    at: int
    cpu_percent: float | None
    cpu_max: float | None
    memory_bytes: int | None


@dataclass(slots=True)
class _Open:
    minute: int
    cpu: list[float] = field(default_factory=list)
    memory: int | None = None


@dataclass(slots=True)
class UsageMinutes:
    """The newest use of every part, and the minutes that are not stored yet."""

    latest: dict[str, dict[str, Use]] = field(default_factory=dict)
    _spent: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    _open: dict[tuple[str, str], _Open] = field(default_factory=dict)
    _closed: list[UsageMinute] = field(default_factory=list)

    def add(self, node: str, at: float, system: Mapping[str, Any], *, own: str = "node") -> None:
        """Keep what `/health/system` told at Unix time `at`. `own`: whose process told it."""
        cpu = system.get("cpu") or {}
        cores = float(cpu.get("count") or 1)
        memory = system.get("memory") or {}
        used = None
        if memory.get("total") is not None and memory.get("available") is not None:
            used = int(memory["total"] - memory["available"])
        busy = cpu.get("busy_seconds")
        percent = self._percent(node, "machine", at, busy, cores)
        uses = {"machine": Use(cpu.get("percent") if busy is None else percent, used)}
        groups = {own: system.get("process") or {}, **(system.get("engines") or {})}
        for part, group in groups.items():
            if group.get("processes") == 0 and part != own:
                continue  # an engine elsewhere, or one that may not be looked at
            percent = self._percent(node, part, at, group.get("cpu_seconds"), cores)
            uses[part] = Use(percent, group.get("resident_bytes"))
        self.latest[node] = uses
        for part, use in uses.items():
            self._note(node, part, at, use)

    def forget(self, node: str) -> None:
        """A node was removed; what was stored of it runs out by itself."""
        self.latest.pop(node, None)

    def take(self, now: float, *, unfinished: bool = False) -> list[UsageMinute]:
        """The minutes that are over (or all) and were not taken yet."""
        for key, one in list(self._open.items()):
            if unfinished or one.minute < int(now // MINUTE_S):
                self._close(key, one)
        taken, self._closed = self._closed, []
        return taken

    def untold(self) -> list[UsageMinute]:
        """What was not taken yet, the minutes that run included; it is taken later all the same."""
        return [*self._closed, *(self._minute(key, one) for key, one in self._open.items())]

    def untaken(self, rows: Iterable[UsageMinute]) -> None:
        """They could not be stored: told again by the next `take`, an hour of them at most."""
        self._closed = [*rows, *self._closed][-60 * 5 * max(len(self.latest), 1) :]

    def _percent(self, node: str, part: str, at: float, seconds: Any, cores: float) -> float | None:
        """CPU since the last sample; fewer seconds than before are of processes that began anew."""
        if not isinstance(seconds, int | float):
            return None
        before = self._spent.get((node, part))
        self._spent[(node, part)] = (at, float(seconds))
        if before is None or at - before[0] < 0.5 or seconds < before[1]:
            return None
        return round(min((seconds - before[1]) / (at - before[0]) / cores * 100, 100.0), 1)

    def _note(self, node: str, part: str, at: float, use: Use) -> None:
        key, minute = (node, part), int(at // MINUTE_S)
        one = self._open.get(key)
        if one is not None and one.minute != minute:
            self._close(key, one)
            one = None
        if one is None:
            one = self._open[key] = _Open(minute)
        if use.cpu_percent is not None:
            one.cpu.append(use.cpu_percent)
        if use.memory_bytes is not None:
            one.memory = max(one.memory or 0, int(use.memory_bytes))

    def _close(self, key: tuple[str, str], one: _Open) -> None:
        self._closed.append(self._minute(key, one))
        del self._open[key]

    @staticmethod
    def _minute(key: tuple[str, str], one: _Open) -> UsageMinute:
        mean = round(sum(one.cpu) / len(one.cpu), 1) if one.cpu else None
        most = max(one.cpu) if one.cpu else None
        return UsageMinute(*key, one.minute * MINUTE_S, mean, most, one.memory)


def step_for(hours: float) -> int:
    """Seconds between two points of a chart over so many hours: whole minutes, 720 points at most."""
    return MINUTE_S * max(1, -(-int(hours * 60) // MOST_POINTS))


def charted(rows: Iterable[UsageMinute], *, step_s: int) -> list[dict[str, Any]]:
    """Columns by node and part, oldest first, thinned to one point in each `step_s`."""
    cells: dict[str, dict[str, dict[int, list[UsageMinute]]]] = {}
    for row in rows:
        points = cells.setdefault(row.node, {}).setdefault(row.part, {})
        points.setdefault(row.at - row.at % step_s, []).append(row)
    return [
        {"node": node, "parts": {part: _columns(points) for part, points in sorted(parts.items())}}
        for node, parts in sorted(cells.items())
    ]


def _columns(points: Mapping[int, list[UsageMinute]]) -> dict[str, list[Any]]:
    ordered = sorted(points.items())
    return {
        "at": [at for at, _ in ordered],
        "cpu_percent": [_mean([row.cpu_percent for row in rows]) for _, rows in ordered],
        "cpu_max": [_most([row.cpu_max for row in rows]) for _, rows in ordered],
        "memory_bytes": [_most([row.memory_bytes for row in rows]) for _, rows in ordered],
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 1) if known else None


def _most(values: list[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)
