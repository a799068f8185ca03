"""The breaker of one engine, or of a model on it: pure, the time comes in.

closed ──3 failures in a row──▶ open ──after `cooldown_s`──▶ half_open ──success──▶ closed
                                 ▲                              │
                                 └──────────failure─────────────┘

Calls that were under way together when something broke are one failure: an engine that restarts with eight
calls on it has failed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


PROBE_S = 60.0  # a probe that was heard of neither way for so long does not keep others out


@dataclass(slots=True)
class Breaker:
    """`allows(now)` tells whether a call may be sent; in half-open only one at a time may, the probe.

    Who sent the probe says how it went: `succeeded`, `failed`, or `returned` where it told nothing.
    """

    threshold: int = 3
    cooldown_s: float = 5.0
    failures: int = 0
    failed_at: float = float("-inf")
    opened_at: float | None = None
    probed_at: float | None = None  # when the probe went out that is under way

    def state(self, now: float) -> BreakerState:
        if self.opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now - self.opened_at >= self.cooldown_s else BreakerState.OPEN

    def allows(self, now: float) -> bool:
        state = self.state(now)
        if state is not BreakerState.HALF_OPEN:
            return state is BreakerState.CLOSED
        return self.probed_at is None or now - self.probed_at >= PROBE_S

    def sent(self, now: float) -> None:
        """A call goes out; in half-open it is the probe."""
        if self.state(now) is BreakerState.HALF_OPEN:
            self.probed_at = now

    def succeeded(self) -> bool:
        """A call ended well. True when that closed it."""
        was_open = self.opened_at is not None
        self.failures, self.opened_at, self.probed_at = 0, None, None
        return was_open

    @property
    def is_closed(self) -> bool:
        return self.opened_at is None

    def failed(self, now: float, sent: float | None = None) -> None:
        """`sent`: when the call went out; the present when `None`."""
        if sent is not None and sent <= self.failed_at:
            return
        self.failed_at = now
        self.failures += 1
        if self.probed_at is not None or self.failures >= self.threshold:
            self.opened_at, self.probed_at = now, None

    def returned(self) -> None:
        """The probe told nothing about the node (cancelled, or the request itself was wrong)."""
        self.probed_at = None
