"""The states of a session and the one table of moves between them. docs/ draws its diagram from here."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    QUEUED = "queued"
    OPINIONS = "opinions"
    REVIEW = "review"
    SYNTHESIS = "synthesis"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in OVER


OVER = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})

# From the three ends a retry leads to the first stage that has something to do again.
_REOPENED = frozenset({State.OPINIONS, State.REVIEW, State.SYNTHESIS})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.OPINIONS, State.CANCELLED}),
    State.OPINIONS: frozenset(
        # Past review: a retried opinion that failed again leaves ballots and synthesis as they were.
        {State.REVIEW, State.SYNTHESIS, State.COMPLETED, State.FAILED, State.CANCELLED}
    ),
    State.REVIEW: frozenset({State.SYNTHESIS, State.COMPLETED, State.CANCELLED}),
    State.SYNTHESIS: frozenset({State.COMPLETED, State.CANCELLED}),
    State.COMPLETED: _REOPENED,
    State.FAILED: _REOPENED,
    State.CANCELLED: _REOPENED,
}
