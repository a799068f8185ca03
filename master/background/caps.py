"""What background work may spend in a day: pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Caps:
    """Model calls and tokens from midnight to midnight on the master's clock; `None`: as many as it takes."""

    calls: int | None = None
    tokens: int | None = None

    @property
    def any(self) -> bool:
        return self.calls is not None or self.tokens is not None

    def reason(self, *, calls: int, tokens: int) -> str | None:
        """Why no further call may go out today; `None` when one may.

        The tokens of a call are known when it has ended: what runs at the edge may go over it.
        """
        if self.calls is not None and calls >= self.calls:
            return f"{calls} model calls today are all that BG_MAX_CALLS_PER_DAY allows; the next at midnight"
        if self.tokens is not None and tokens >= self.tokens:
            return f"{tokens} tokens today reach BG_MAX_TOKENS_PER_DAY ({self.tokens}); the next at midnight"
        return None


def midnight_before(local: datetime) -> datetime:
    """Where today begins; both naive, on the clock of the wall."""
    return local.replace(hour=0, minute=0, second=0, microsecond=0)


def midnight_after(local: datetime) -> datetime:
    """Where today ends; both naive, on the clock of the wall."""
    return midnight_before(local) + timedelta(days=1)
