"""What holds background work back on one machine: CPU of others, memory, battery, exclusive programs. Pure.

| | holds | lets go |
|---|---|---|
| CPU of others, over 10 s | over the cap twice, or half from there to full | below 4/7 of the cap for 60 s |
| memory of others | over the cap + 10 % while work runs, over the cap otherwise | below the cap |
| free memory | below 5 % | over 10 % |
| battery, an exclusive program | at once | clear for 60 s |

What stays between 4/7 of the cap and the cap for 10 min lets go, too. Work that has begun to run is let run
for 5 s before CPU or memory end it. A cap of 1 holds nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

SMOOTHED_OVER_S = 10.0
STEADY_S = 60.0
UNDER_CAP_S = 600.0
STALE_S = 60.0
LEAST_SLICE_S = 5.0
_GO_ON_BELOW = 4 / 7  # 20 % where work stops at 35 %
_MEMORY_MARGIN = 0.10
_LEAST_FREE, _FREE_AGAIN = 0.05, 0.10

Cause = Literal["cpu", "memory", "free", "battery", "exclusive"]


@dataclass(frozen=True, slots=True)
class Caps:
    """Shares of the machine, 0 to 1. `steady_s`: how long it has to be clear before work goes on."""

    max_cpu: float = 0.5
    max_memory: float = 0.75
    on_battery: bool = False
    steady_s: float = STEADY_S


@dataclass(frozen=True, slots=True)
class HostSample:
    """One look at a machine. Shares are 0 to 1; `foreign`: without our own processes; `None`: not known."""

    foreign_cpu: float | None = None
    foreign_memory: float | None = None
    free_memory: float | None = None
    on_battery: bool = False
    exclusive: tuple[str, ...] = ()


@dataclass(slots=True)
class HostHolds:
    """One machine. `observe` samples in their order; `reasons` says what holds now, in words."""

    caps: Caps
    sample: HostSample | None = None
    sampled_at: float = -math.inf
    cpu: float | None = None
    _over: int = 0
    _held: set[Cause] = field(default_factory=set)
    _clear_since: dict[Cause, float] = field(default_factory=dict)
    _under_cap_since: float | None = None

    def observe(self, sample: HostSample, now: float, *, running_since: float | None) -> None:
        """`now` and `running_since` (the gate is open since then, or `None`) are monotonic seconds."""
        self._smooth(sample.foreign_cpu, now)
        self.sample, self.sampled_at = sample, now
        settled = running_since is None or now - running_since >= LEAST_SLICE_S
        self._judge_cpu(sample.foreign_cpu, now, settled=settled, running=running_since is not None)
        if sample.foreign_memory is not None:
            cap = self.caps.max_memory
            most = cap if running_since is None else cap + _MEMORY_MARGIN
            self._set("memory", sample.foreign_memory > most and settled, now)
            self._clear("memory", sample.foreign_memory <= cap, now, 0.0)
        if sample.free_memory is not None and self.caps.max_memory < 1.0:
            self._set("free", sample.free_memory < _LEAST_FREE and settled, now)
            self._clear("free", sample.free_memory > _FREE_AGAIN, now, 0.0)
        self._at_once("battery", sample.on_battery and not self.caps.on_battery, now)
        self._at_once("exclusive", bool(sample.exclusive), now)

    def is_known(self, now: float) -> bool:
        """Whether there are figures of this minute."""
        return now - self.sampled_at <= STALE_S

    def reasons(self, now: float) -> list[str]:
        """Why nothing may run here; empty when it may."""
        if self.sample is None:
            return ["its CPU and memory are not known yet"]
        if not self.is_known(now):
            return [f"it has told nothing of its CPU and memory for {now - self.sampled_at:.0f} s"]
        words: dict[Cause, str] = {
            "cpu": self._about_cpu(),
            "memory": f"memory {_above(self.sample.foreign_memory or 0.0, self.caps.max_memory)}",
            "free": f"only {_percent(self.sample.free_memory or 0.0)} of its memory is free",
            "battery": "it runs on battery" if self.sample.on_battery else "it ran on battery a moment ago",
            "exclusive": f"{' and '.join(self.sample.exclusive) or 'an exclusive program'} runs there"
            if self.sample.exclusive
            else "an exclusive program ran there a moment ago",
        }
        return [words[cause] for cause in words if cause in self._held]

    def _smooth(self, cpu: float | None, now: float) -> None:
        if cpu is None:
            return
        if self.cpu is None or not self.is_known(now):
            self.cpu = cpu
            return
        weight = 1.0 - math.exp(-max(now - self.sampled_at, 0.0) / SMOOTHED_OVER_S)
        self.cpu += (cpu - self.cpu) * weight

    def _judge_cpu(self, told: float | None, now: float, *, settled: bool, running: bool) -> None:
        if told is None or self.cpu is None:
            return
        cap = self.caps.max_cpu
        self._over = self._over + 1 if self.cpu > cap else 0
        far_over = self.cpu > cap + (1.0 - cap) / 2
        self._set("cpu", settled and (far_over or self._over >= (2 if running else 1)), now)
        self._clear("cpu", self.cpu < cap * _GO_ON_BELOW, now, self.caps.steady_s)
        if self.cpu > cap:
            self._under_cap_since = None
        elif self._under_cap_since is None:
            self._under_cap_since = now
        # A machine that is always a little busy, yet under the cap, is not held for ever.
        elif now - self._under_cap_since >= UNDER_CAP_S:
            self._held.discard("cpu")

    def _at_once(self, cause: Cause, holds: bool, now: float) -> None:
        self._set(cause, holds, now)
        self._clear(cause, not holds, now, self.caps.steady_s)

    def _set(self, cause: Cause, holds: bool, now: float) -> None:
        if holds:
            self._held.add(cause)
            self._clear_since.pop(cause, None)

    def _clear(self, cause: Cause, clear: bool, now: float, steady_s: float) -> None:
        if not clear:
            self._clear_since.pop(cause, None)
        elif cause in self._held and now - self._clear_since.setdefault(cause, now) >= steady_s:
            self._held.discard(cause)
            del self._clear_since[cause]

    def _about_cpu(self) -> str:
        cap, cpu = self.caps.max_cpu, self.cpu or 0.0
        if cpu > cap:
            return f"CPU {_above(cpu, cap)}"
        below, steady = _percent(cap * _GO_ON_BELOW), f"{self.caps.steady_s:.0f} s"
        return f"CPU {_percent(cpu)}, and has to stay below {below} for {steady}"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _above(share: float, cap: float) -> str:
    """`61 % > 50 %`, with a decimal where whole numbers would look equal."""
    told = _percent(share) if _percent(share) != _percent(cap) else f"{share * 100:.1f} %"
    return f"{told} > {_percent(cap)}"
