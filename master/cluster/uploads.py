"""Long requests on their way to one node: how much longer than usual its first answer may take."""

from __future__ import annotations

import asyncio

AT_ONCE_BYTES = 16_384  # what any link of a LAN takes in well under a second
SLOWEST_LINK_BYTES_PER_S = 10_000


class Uploads:
    """The requests to one node that it has not answered yet, by the timer of their silence.

    A node that is still being sent a prompt is not silent. Nobody can see how far a request has come, so a
    timer is put off by what the slowest link would need for all of them: they share it.
    """

    def __init__(self) -> None:
        self._seconds: dict[asyncio.Timeout, float] = {}

    def begin(self, silence: asyncio.Timeout, size: int) -> None:
        """A request of `size` bytes goes out; `end` is due with its first answer."""
        if size <= AT_ONCE_BYTES:
            return
        own_s = size / SLOWEST_LINK_BYTES_PER_S
        others_s = sum(self._seconds.values())
        for one in self._seconds:
            _put_off(one, own_s)
        _put_off(silence, own_s + others_s)
        self._seconds[silence] = own_s

    def end(self, silence: asyncio.Timeout) -> None:
        self._seconds.pop(silence, None)


def _put_off(timer: asyncio.Timeout, seconds: float) -> None:
    due = timer.when()
    if due is not None and due > asyncio.get_running_loop().time():  # else it has fired, or is made to
        timer.reschedule(due + seconds)
