"""How busy a node's machine was over the last hour: pure; samples and the time come in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

EVERY_S = 15.0
KEPT_S = 3600.0


@dataclass(slots=True)
class _Spent:
    """CPU seconds of one engine's processes, and when that was read."""

    at: float
    cpu_seconds: float


@dataclass(slots=True)
class History:
    """One sample each 15 s, the newest hour of them."""

    samples: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=int(KEPT_S / EVERY_S)))
    _spent: dict[str, _Spent] = field(default_factory=dict)

    def is_due(self, now: float) -> bool:
        return not self.samples or now - self.samples[-1]["at"] >= EVERY_S

    def add(self, at: float, system: dict[str, Any]) -> None:
        """Keep what `/health/system` told at the time `at` (Unix seconds); what it leaves out is `None`."""
        if self.samples and at <= self.samples[-1]["at"]:
            return  # the clock was set back: two samples of one time help nobody
        self.samples.append(
            {
                "at": at,
                "cpu_percent": _number(system, "cpu", "percent"),
                "memory_percent": _number(system, "memory", "percent"),
                "engines": {
                    str(name): self._engine(str(name), at, usage)
                    for name, usage in (system.get("engines") or {}).items()
                },
                "gpus": [
                    {"load_percent": gpu.get("load_percent"), "memory_used": gpu.get("memory_used")}
                    for gpu in system.get("gpus") or []
                ],
            }
        )
        while at - self.samples[0]["at"] > KEPT_S:  # a node that slept
            self.samples.popleft()

    def _engine(self, name: str, at: float, usage: dict[str, Any]) -> dict[str, float | None]:
        """CPU in percent of one core since the last sample. Less than before: its processes are new ones."""
        seconds = usage.get("cpu_seconds")
        before = self._spent.get(name)
        percent = None
        if isinstance(seconds, int | float):
            self._spent[name] = _Spent(at, seconds)
            if before is not None and seconds >= before.cpu_seconds:
                percent = round((seconds - before.cpu_seconds) / (at - before.at) * 100, 1)
        return {"cpu_percent": percent, "resident_bytes": usage.get("resident_bytes")}


def _number(system: dict[str, Any], group: str, name: str) -> float | None:
    found = (system.get(group) or {}).get(name)
    return found if isinstance(found, int | float) else None
