"""Trace ids across processes: the W3C `traceparent` header, no more."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One position in a trace. `child()` is the position of what is called from here."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @classmethod
    def new(cls) -> TraceContext:
        return cls(_hex_id(128), _hex_id(64))

    @classmethod
    def parse(cls, traceparent: str | None) -> TraceContext | None:
        """Read the header; `None` when it is absent or breaks the format."""
        match = _TRACEPARENT.match(traceparent or "")
        if match is None:
            return None
        trace_id, span_id, flags = match.groups()
        if trace_id == _NO_TRACE or span_id == _NO_SPAN:
            return None
        return cls(trace_id, span_id, bool(int(flags, 16) & 1))

    def child(self) -> TraceContext:
        return TraceContext(self.trace_id, _hex_id(64), self.sampled)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def _hex_id(bits: int) -> str:
    """Unlike all others, no secret: the system's own randomness would cost a call of it for each id."""
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"
