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


@dataclass(slots=True)
class Breaker:
    """`allows(now)` tells whether a call may be sent; in half-open only one at a time may."""

    threshold: int = 3
    cooldown_s: float = 5.0
    failures: int = 0
    failed_at: float = float("-inf")
    opened_at: float | None = None
    probing: bool = False

    def state(self, now: float) -> BreakerState:
        if self.opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now - self.opened_at >= self.cooldown_s else BreakerState.OPEN

    def allows(self, now: float) -> bool:
        state = self.state(now)
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self.probing)

    def sent(self, now: float) -> None:
        """A call goes out; in half-open it is the probe."""
        if self.state(now) is BreakerState.HALF_OPEN:
            self.probing = True

    def succeeded(self) -> bool:
        """A call ended well. True when that closed it."""
        was_open = self.opened_at is not None
        self.failures, self.opened_at, self.probing = 0, None, False
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
        if self.probing or self.failures >= self.threshold:
            self.opened_at, self.probing = now, False

    def returned(self) -> None:
        """The call told nothing about the node (cancelled, or the request itself was wrong)."""
        self.probing = False
