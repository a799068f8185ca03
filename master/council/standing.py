"""Where one call stands after its attempts: decided, or due once more and how.

An attempt that was restarted elsewhere, interrupted or cancelled decides nothing. A failure is final, but
for a context overflow (once more, smaller) and, in a review, a ballot that cannot be read (once more, as a
repair).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from common.errors import EmptyAnswerError, EngineFailedError, ModelOutputError
from master.council.plan import AttemptRecord, Outcome

Purpose = Literal["first", "repair", "smaller", "fallback"]

T = TypeVar("T")

UNDECIDED = frozenset({Outcome.RUNNING, Outcome.RESTARTED, Outcome.INTERRUPTED, Outcome.CANCELLED})
_UNREADABLE = frozenset({ModelOutputError.code, EmptyAnswerError.code})
_OVERFLOW = "context_overflow"


@dataclass(frozen=True, slots=True)
class Standing(Generic[T]):
    """`value` and `record` when it worked, `error` when it failed for good, neither while it is open.

    `smaller`: a context overflow happened, so the budget is halved. `complaint`: what was wrong with the
    first ballot, to be quoted in the repair. `last_error` is the problem of the latest attempt, final or not.
    """

    value: T | None = None
    record: AttemptRecord | None = None
    error: dict[str, Any] | None = None
    smaller: bool = False
    complaint: str | None = None
    last_error: dict[str, Any] | None = None

    @property
    def is_open(self) -> bool:
        return self.value is None and self.error is None

    @property
    def purpose(self) -> Purpose:
        """What the next attempt is for; the latest reason wins."""
        if self.last_error is not None and self.last_error.get("code") == _OVERFLOW:
            return "smaller"
        return "repair" if self.complaint is not None else "first"


class Unreadable(Exception):
    """Raised by the reader of an answer: the text is not what was asked for, and why."""


def stand(attempts: Iterable[AttemptRecord], read: Callable[[str], T], *, repairs: int = 0) -> Standing[T]:
    """Fold the attempts of one call (of one model) in their order.

    `read` turns the text of a finished attempt into its value and raises `Unreadable` with the reason when
    it cannot; that is final after `repairs` more attempts. Empty text is never an answer.
    """
    smaller = False
    complaints: list[str] = []
    last_error: dict[str, Any] | None = None
    for record in attempts:
        if record.outcome in UNDECIDED:
            continue
        error: dict[str, Any]
        if record.outcome is Outcome.DONE:
            try:
                value = _read(record, read)
            except Unreadable as reason:
                kind = ModelOutputError if record.text.strip() else EmptyAnswerError
                error = kind(str(reason), node=record.node, model=record.model).to_problem()
            else:
                return Standing(value=value, record=record, smaller=smaller)
        else:
            error = problem_of(record)
        last_error = error
        if error.get("code") in _UNREADABLE and len(complaints) < repairs:
            complaints.append(str(error.get("detail")))
        elif error.get("code") == _OVERFLOW and not smaller:
            smaller = True
        else:
            return Standing(error=error, record=record, smaller=smaller, last_error=error)
    return Standing(smaller=smaller, complaint=complaints[-1] if complaints else None, last_error=last_error)


def _read(record: AttemptRecord, read: Callable[[str], T]) -> T:
    if record.text.strip():
        return read(record.text)
    if record.thinking.strip():
        raise Unreadable(f"{record.model} thought, but ended without an answer")
    raise Unreadable(f"{record.model} ended without a word")


def problem_of(record: AttemptRecord) -> dict[str, Any]:
    """The problem of a failed attempt, also where the row carries none."""
    if record.error is not None:
        return dict(record.error)
    return EngineFailedError(node=record.node, model=record.model).to_problem()
