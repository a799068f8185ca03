"""Where background calls go while the background engine comes and goes: pure, the time comes in.

    background ──down──▶ main (with a warning) ──up again, and a minute since the last change──▶ background

Without a background engine there is nothing to fall back from: calls go to the main one, without a warning.
An engine that flaps does not drag the calls back and forth: between two changes lies at least `DWELL_S`, and
until then a call waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Policy = Literal["main_with_warning", "wait", "fail"]
Target = Literal["background", "main", "wait", "fail"]
DWELL_S = 60.0


@dataclass(frozen=True, slots=True)
class Route:
    """Where a background call goes now. `warning` is for log, health, API and page while it is away."""

    target: Target
    warning: str | None = None


@dataclass(slots=True)
class BackgroundRoute:
    policy: Policy = "main_with_warning"
    _on_main: bool = False
    _changed_at: float | None = None

    def decide(self, *, configured: bool, up: bool, now: float, trouble: str = "is down") -> Route:
        """`configured`: some node names a background engine; `up`: one of them takes calls, `trouble` says
        why not. Monotonic seconds.
        """
        if not configured:
            return Route("main")
        if self._on_main:
            if up and self._may_change(now):
                self._change(on_main=False, now=now)
                return Route("background")
            if up:
                return Route(
                    "main", "the background engine is back and is watched for a minute before it is used"
                )
            return Route("main", f"the background engine {trouble}: its calls run on the main engine")
        if up:
            return Route("background")
        if self.policy == "fail":
            return Route("fail", f"the background engine {trouble}: its calls fail (policy `fail`)")
        if self.policy == "wait":
            return Route("wait", f"the background engine {trouble}: its calls wait (policy `wait`)")
        if not self._may_change(now):
            return Route("wait", "the background engine comes and goes: its calls wait until it is steady")
        self._change(on_main=True, now=now)
        return Route("main", f"the background engine {trouble}: its calls run on the main engine")

    def _may_change(self, now: float) -> bool:
        return self._changed_at is None or now - self._changed_at >= DWELL_S

    def _change(self, *, on_main: bool, now: float) -> None:
        self._on_main, self._changed_at = on_main, now
