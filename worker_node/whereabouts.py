"""When a node tells its master where it is. Pure: seconds of a clock that never jumps go in.

A master that still reaches its node calls it every few seconds. Silence means that the node is elsewhere now
(a new lease, another Wi-Fi, a PC that woke), or that the master is away: telling it costs one request.
"""

from __future__ import annotations

from collections.abc import Collection

EVERY_S = 3600.0
REFUSED_EVERY_S = 60.0  # the same wrong key again is no guess to a master
UNHEARD_S = 10.0  # several heartbeats; a master whose own come less often says so
UNHEARD_ELSEWHERE_S = 3.0
MOST_UNHEARD_S = 300.0
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_HEARTBEATS = 2.0


class Whereabouts:
    """What was told when, and what came of it.

    `jitter` is a factor around 1, so that the nodes of a master that was away do not come all at once.
    """

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._told_at = float("-inf")
        self._retry_at: float | None = None
        self._is_refused = False
        self._failures = 0
        self._in_vain = 0
        self._heartbeat_s = 0.0
        self._jitter = 1.0
        self._addresses: frozenset[str] = frozenset()

    def is_due(self, now: float, heard_at: float, addresses: Collection[str]) -> bool:
        """Whether to tell now. `heard_at`: when the master last called; `addresses`: this machine's own."""
        if self._began_at is None:
            return True
        moved = frozenset(addresses) != self._addresses
        if self._retry_at is not None:
            return now >= self._retry_at or (moved and not self._is_refused)
        if heard_at > self._began_at:
            self._in_vain = 0
        silent_s = now - max(heard_at, self._began_at)
        return now - self._told_at >= EVERY_S or silent_s >= self._patience_s(moved)

    def began(self, now: float, addresses: Collection[str], *, jitter: float) -> None:
        """The master is being told."""
        self._began_at, self._addresses, self._jitter = now, frozenset(addresses), jitter
        self._is_refused = False

    def told(self, now: float, *, heartbeat_s: float) -> None:
        """It knows. Whether it can reach this node shows when it calls; `heartbeat_s`: how often it does."""
        self._told_at, self._retry_at, self._failures = now, None, 0
        self._in_vain += 1
        self._heartbeat_s = heartbeat_s

    def failed(self, now: float) -> float:
        """It could not be told; for how many seconds nothing is tried, unless this machine moves."""
        self._failures += 1
        pause_s = PAUSES_S[min(self._failures, len(PAUSES_S)) - 1] * self._jitter
        self._retry_at = now + pause_s
        return pause_s

    def refused(self, now: float) -> None:
        """It does not know this node any more. It may again, once its administrator has brought an older
        database back: it is asked now and then, wherever this machine moves.
        """
        self._is_refused, self._retry_at = True, now + REFUSED_EVERY_S

    def _patience_s(self, moved: bool) -> float:
        """How long its silence means nothing: longer each time that telling it brought no call."""
        heartbeats_s = self._heartbeat_s * _HEARTBEATS
        if moved:
            return max(UNHEARD_ELSEWHERE_S, heartbeats_s)
        longer = 2.0 ** max(0, self._in_vain - 1)
        return min(max(UNHEARD_S, heartbeats_s) * longer, max(MOST_UNHEARD_S, heartbeats_s)) * self._jitter
