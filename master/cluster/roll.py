"""Who of those that share a database lives, judged from the locks that are seen there: pure.

A lock of the database server is given back by its holder's death, at once. But it is also gone for a moment
where the server restarts, until its holder has come back. So nobody is dead before its lock was missing for
`ABSENT_S`, and not before this one itself has looked for `SETTLED_S` since it was connected.

docs/decisions/0043-several-masters.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

ABSENT_S = 1.5
SETTLED_S = 3.0


def lock_key(name: str) -> int:
    """The number of the lock that `name` holds: 64 bits with a sign, as a server wants it."""
    return int.from_bytes(hashlib.sha256(f"lan-council {name}".encode()).digest()[:8], signed=True)


class Roll:
    """`dead` are names known to be dead whatever the locks say. Times are monotonic seconds."""

    def __init__(self, dead: Iterable[str] = ()) -> None:
        self._dead = set(dead)
        self._held: frozenset[int] = frozenset()
        self._connected_at: float | None = None
        self._absent_since: dict[str, float] = {}

    @property
    def is_connected(self) -> bool:
        return self._connected_at is not None

    def connected(self, now: float) -> None:
        self._connected_at = now
        self._absent_since.clear()

    def disconnected(self) -> None:
        """Nothing is known of anybody any more."""
        self._connected_at = None
        self._held = frozenset()
        self._absent_since.clear()

    def seen(self, held: Iterable[int]) -> None:
        """All locks that are held now."""
        self._held = frozenset(held)

    def gone(self, name: str) -> None:
        """It said good-bye, or its death is certain. Names are used once."""
        self._dead.add(name)

    def lives(self, name: str, now: float) -> bool:
        """Whether to treat it as alive; asked again and again, it decides once it has seen enough."""
        if name in self._dead:
            return False
        if self._connected_at is None:
            return True
        if lock_key(name) in self._held:
            self._absent_since.pop(name, None)
            return True
        since = self._absent_since.setdefault(name, now)
        if now - since < ABSENT_S or now - self._connected_at < SETTLED_S:
            return True
        self._dead.add(name)
        del self._absent_since[name]
        return False
