"""The states of the gate and the one table of moves between them. docs/ draws its diagram from here."""

from __future__ import annotations

from enum import StrEnum


class GateState(StrEnum):
    """How quiet a machine is. Background work runs in `idle`, `long_idle` and `night`."""

    ACTIVE = "active"
    COOLING = "cooling"
    IDLE = "idle"
    LONG_IDLE = "long_idle"
    NIGHT = "night"
    HELD = "held"

    @property
    def is_open(self) -> bool:
        return self in OPEN

    @property
    def is_open_for_long(self) -> bool:
        """Whether long jobs may start, too."""
        return self in OPEN_FOR_LONG


OPEN = frozenset({GateState.IDLE, GateState.LONG_IDLE, GateState.NIGHT})
OPEN_FOR_LONG = frozenset({GateState.LONG_IDLE, GateState.NIGHT})

_IN_USE = "somebody uses it"
_HELD = "CPU, memory, battery or an exclusive program"
_WINDOW = "the night's window opens"
TRANSITIONS: dict[GateState, dict[GateState, str]] = {
    GateState.ACTIVE: {
        GateState.COOLING: "nothing interactive runs any more",
        GateState.NIGHT: "nothing interactive runs any more, at night",
        GateState.HELD: "the same, but the machine is not free",
    },
    GateState.COOLING: {
        GateState.ACTIVE: _IN_USE,
        GateState.IDLE: "quiet for BG_IDLE_THRESHOLD",
        GateState.NIGHT: _WINDOW,
        GateState.HELD: "quiet for BG_IDLE_THRESHOLD, but the machine is not free",
    },
    GateState.IDLE: {
        GateState.ACTIVE: _IN_USE,
        GateState.LONG_IDLE: "quiet for BG_LONG_IDLE_THRESHOLD",
        GateState.NIGHT: _WINDOW,
        GateState.HELD: _HELD,
    },
    GateState.LONG_IDLE: {
        GateState.ACTIVE: _IN_USE,
        GateState.NIGHT: _WINDOW,
        GateState.HELD: _HELD,
    },
    GateState.NIGHT: {
        GateState.ACTIVE: _IN_USE,
        GateState.COOLING: "the window ends soon after use",
        GateState.IDLE: "the window ends, quiet for BG_IDLE_THRESHOLD",
        GateState.LONG_IDLE: "the window ends, quiet for BG_LONG_IDLE_THRESHOLD",
        GateState.HELD: _HELD,
    },
    GateState.HELD: {
        GateState.ACTIVE: _IN_USE,
        GateState.COOLING: "the window ends soon after use",
        GateState.IDLE: "the machine is free again",
        GateState.LONG_IDLE: "free again, quiet for BG_LONG_IDLE_THRESHOLD",
        GateState.NIGHT: "free again, at night",
    },
}
