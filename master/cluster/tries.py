"""How often a call may be tried, and how long it pauses between: pure but for the jitter.

A call that fails at its node before its first token is tried on other nodes, at most `MAX_MOVES` times; after
the first token it is started anew once. A node that is stopping hands its call back, which counts as neither.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from common import errors
from master.cluster.attempt import Attempt

MAX_MOVES = 3
MAX_HAND_BACKS = 20


@dataclass(slots=True)
class Tries:
    """How often a call was started anew, by why. Raising the count is asking whether it may be."""

    moves: int = 0
    restarts: int = 0
    hand_backs: int = 0

    def again(self, error: errors.CouncilError, attempt: Attempt, *, elsewhere: bool) -> bool:
        if isinstance(error, errors.NodeDrainingError):
            self.hand_backs += 1
            return self.hand_backs <= MAX_HAND_BACKS
        again = isinstance(error, errors.RetryableError)
        if attempt.first_token is not None:
            self.restarts += 1
            return again and self.restarts <= 1
        self.moves += 1
        return (again and self.moves <= MAX_MOVES) or (
            isinstance(error, errors.ModelNotFoundError) and elsewhere
        )

    def pause_s(self) -> float:
        """Exponential, with jitter so that calls that failed together do not come back together."""
        return min(0.2 * 2.0 ** (self.moves + self.restarts), 5.0) * random.uniform(0.5, 1.0)
