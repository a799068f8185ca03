"""What becomes of a job that failed: pure.

pause   the surroundings are not there (engine, node, model, disk, cap): it waits, however long that takes
retry   it may go better next time, and counts: after `max_attempts` it is a dead letter
dead    it cannot go better: a dead letter at once, with its cause
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common import errors

Kind = Literal["pause", "retry", "dead"]
LONGEST_PAUSE_S = 600.0

# Nothing of these is the job's doing, so that an engine that is away for a night costs no attempt.
_SURROUNDINGS = (
    errors.NodeUnreachableError,
    errors.NodeFrozenError,
    errors.NodeDrainingError,
    errors.PreemptedError,
    errors.QueueFullError,
    errors.QueueTimeoutError,
    errors.EngineUnavailableError,
    errors.EngineBusyError,
    errors.StorageBusyError,
    errors.StorageFullError,
    errors.ModelUnavailableError,
    errors.ModelNotFoundError,
)
# A model says something else next time; every other `RetryableError` may be the prompt that kills the engine.
_CHANCE = (errors.ModelOutputError, errors.EmptyAnswerError, errors.GenerationTimeoutError)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`attempts` and `pauses` are the job's new counts; `wait_s` is how long it stays away."""

    kind: Kind
    attempts: int
    pauses: int
    wait_s: float


def judge(
    error: errors.CouncilError,
    *,
    attempts: int,
    pauses: int,
    max_attempts: int,
    first_pause_s: float,
    chance: float,
) -> Verdict:
    """`attempts` and `pauses` before this failure; `chance` in [0, 1) spreads jobs that failed together.

    Both waits double from `first_pause_s` on, up to ten minutes, and an engine that names a time is heard.
    """
    if isinstance(error, _SURROUNDINGS):
        wait_s = _back_off(first_pause_s, pauses, chance, at_least_s=error.retry_after_s)
        return Verdict("pause", attempts, pauses + 1, wait_s)
    if isinstance(error, (errors.RetryableError, *_CHANCE)) and attempts + 1 < max_attempts:
        wait_s = _back_off(first_pause_s, attempts, chance, at_least_s=error.retry_after_s)
        return Verdict("retry", attempts + 1, pauses, wait_s)
    return Verdict("dead", attempts + 1, pauses, 0.0)


def _back_off(first_s: float, before: int, chance: float, *, at_least_s: float | None) -> float:
    """Exponential, with jitter of a half, so that what failed together does not come back together."""
    whole_s = min(first_s * 2.0 ** min(before, 32), LONGEST_PAUSE_S)
    return max(whole_s * (0.5 + chance / 2), at_least_s or 0.0)
