"""The numbered events of one session, held in memory for those who watch it.

`seq` rises by one. Numbers are taken from blocks whose end is persisted before they are used, so that a
restarted master never repeats one: it opens a fresh block, and every watcher begins with a snapshot there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from common.errors import NodeDrainingError

HELD_EVENTS = 20_000
BLOCK = 10_000
_REFILL_AT = BLOCK // 2

SnapshotMaker = Callable[[], dict[str, Any]]
_encoder = msgspec.json.Encoder()


class TooSlowError(Exception):
    """A watcher fell so far behind that events it needs are no longer held."""


class EventLog:
    """`head` is the number of the last event; numbers up to what `grant` gave may be used.

    `on_low` is called when a new block should be persisted and granted, well before the old one is used up:
    only a disk that stopped taking writes lets numbers run past it. `snapshot` makes the `{session, partial}`
    of now. One writer, any number of watchers; each event is encoded once.
    """

    def __init__(
        self,
        session_id: str,
        *,
        head: int,
        snapshot: SnapshotMaker,
        on_low: Callable[[], None],
        held: int = HELD_EVENTS,
    ) -> None:
        self.session_id = session_id
        self.head = head
        self.ended = False
        self._interrupted = False
        self._opened_at = head
        self._snapshot = snapshot
        self._on_low = on_low
        self._granted = head
        self._events: deque[bytes] = deque(maxlen=held)
        self._news = asyncio.Event()

    def grant(self, up_to: int) -> None:
        """Numbers up to this one are persisted as used."""
        self._granted = up_to

    def publish(self, event: dict[str, Any]) -> None:
        self.head += 1
        self._events.append(_encoder.encode(self._envelope(self.head, event)))
        if self._granted - self.head < _REFILL_AT:
            self._on_low()
        self._wake()

    def end(self) -> None:
        """No event follows, until `reopen`."""
        self.ended = True
        self._wake()

    def interrupt(self) -> None:
        """The master stops before the session's end: who watches has to come back later."""
        self._interrupted = True
        self._wake()

    def reopen(self) -> None:
        self.ended = False

    def is_past_end(self, after: int) -> bool:
        """Whether a watcher that saw `after` has seen everything there will be."""
        return self.ended and after == self.head

    async def watch(self, after: int) -> AsyncIterator[tuple[int, bytes]]:
        """Events after a number (0: all), as (seq, JSON), to the end of the session.

        Where not everything after the number is held, it opens with a snapshot.
        Raises `TooSlowError` when the watcher lags behind what is held, `NodeDrainingError` when the master
        stops first.
        """
        position = after
        if not self._holds(after):
            position = self.head
            yield position, self.snapshot()
        while True:
            first = self.head - len(self._events) + 1
            if position + 1 < first:
                raise TooSlowError
            if position == self.head:
                if self.ended:
                    return
                if self._interrupted:
                    raise NodeDrainingError("the master is stopping; the session goes on when it is back")
                await self._news.wait()
                continue
            batch = [self._events[number - first] for number in range(position + 1, self.head + 1)]
            for data in batch:
                position += 1
                yield position, data

    def snapshot(self) -> bytes:
        return _encoder.encode(self._envelope(self.head, {"type": "snapshot", **self._snapshot()}))

    def _holds(self, after: int) -> bool:
        """Whether everything after `after` is held. The opening of a fresh block is never a known number."""
        first = self.head - len(self._events) + 1
        if after == self._opened_at and after != 0:
            return False
        return first - 1 <= after <= self.head

    def _envelope(self, seq: int, event: dict[str, Any]) -> dict[str, Any]:
        return {
            "seq": seq,
            "session_id": self.session_id,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            **event,
        }

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
