"""What of a machine's CPU and memory is other people's: pure. What `/health/system` told comes in, twice.

Ours are the node, its engines, and on the master's machine the master. Where an engine's processes cannot be
seen (a service of another user), what it takes for our calls looks like somebody else's: then the CPU counts
as unknown while calls run there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from master.background.host_holds import HostSample

LEAST_APART_S = 0.5


@dataclass(frozen=True, slots=True)
class Own:
    """What further processes of ours have taken so far: CPU seconds, and bytes that are theirs alone."""

    cpu_seconds: float = 0.0
    private_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    busy_seconds: float
    own_seconds: float


@dataclass(slots=True)
class ForeignUse:
    """One machine."""

    _last: _Reading | None = None

    def read(
        self, at: float, system: Mapping[str, Any], *, own: Own | None = None, calls: int = 0
    ) -> HostSample | None:
        """The sample of what a machine told at monotonic `at`; `None` before the second reading of its CPU.

        `calls`: how many of our calls run there now.
        """
        own = own or Own()
        groups = [system.get("process") or {}, *(system.get("engines") or {}).values()]
        unseen = calls > 0 and any(one.get("processes") == 0 for one in groups[1:])
        cpu, is_first = self._cpu(at, system.get("cpu") or {}, own.cpu_seconds + _sum(groups, "cpu_seconds"))
        if is_first:
            return None
        memory = system.get("memory") or {}
        total, available = _number(memory, "total"), _number(memory, "available")
        foreign = free = None
        if total and available is not None:
            foreign = (total - available - own.private_bytes - _sum(groups, "private_bytes")) / total
            foreign, free = _share(foreign), _share(available / total)
        battery = system.get("battery") or {}
        return HostSample(
            foreign_cpu=None if unseen else cpu,
            foreign_memory=foreign,
            free_memory=free,
            on_battery=battery.get("plugged") is False,
            exclusive=tuple(str(name) for name in system.get("exclusive") or ()),
        )

    def _cpu(self, at: float, cpu: Mapping[str, Any], own_seconds: float) -> tuple[float | None, bool]:
        """The share that is not ours since the last reading, and whether this is the first reading."""
        busy, count = _number(cpu, "busy_seconds"), _number(cpu, "count") or 1.0
        if busy is None:  # a node of an older version: all that it has is everybody's use
            percent = _number(cpu, "percent")
            return (_share(percent / 100) if percent is not None else None), False
        last = self._last
        if last is not None and at - last.at < LEAST_APART_S and at >= last.at:
            return None, False
        self._last = _Reading(at, busy, own_seconds)
        if last is None or busy < last.busy_seconds or at <= last.at:  # first, or the machine began anew
            return None, True
        if own_seconds < last.own_seconds:  # an engine began anew: what it took before is not known
            return None, False
        foreign = busy - last.busy_seconds - (own_seconds - last.own_seconds)
        return _share(foreign / ((at - last.at) * count)), False


def _sum(groups: list[dict[str, Any]], name: str) -> float:
    return sum(_number(group, name) or 0.0 for group in groups)


def _number(group: Mapping[str, Any], name: str) -> float | None:
    found = group.get(name)
    return float(found) if isinstance(found, int | float) else None


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
