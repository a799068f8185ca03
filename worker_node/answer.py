"""The answer to one call on the wire, and the signs of life between its messages."""

from __future__ import annotations

import asyncio
import time

from common.asgi import Headers, Send
from common.errors import CouncilError
from common.logs import get_logger
from common.protocol import NDJSON_MEDIA_TYPE, Done, Failed, Started, Waiting, encode_line
from worker_node.asgi import send_problem
from worker_node.call import Call, CallMessage

log = get_logger(__name__)

_STREAM_HEADERS: Headers = [
    (b"content-type", NDJSON_MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
# How long `started` waits for a first text to travel with: a write here and a read there are saved where an
# engine answers at once, and nobody can tell such a delay.
_HELD_S = 0.005


class Answer:
    """One answer: its first line sends the headers, an error before that sends a status.

    Used as `async with`, which sends `Waiting` of the `call` whenever nothing was sent for `every_s` seconds.
    """

    def __init__(self, send: Send, every_s: float) -> None:
        self.call: Call | None = None
        self._send = send
        self._every_s = every_s
        self._sent_at = time.monotonic()
        self._started = False
        self._ended = False
        self._held = b""
        self._held_until: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._beside: asyncio.Task[None] | None = None  # what a timer sends

    async def messages(self, *messages: CallMessage) -> None:
        """Send a line each; `Done` is the last one. `Started` may wait a moment for the next."""
        lines = encode_line(messages[0]) if len(messages) == 1 else b"".join(map(encode_line, messages))
        last = type(messages[-1])
        if last is Started:
            self._held += lines
            self._held_until = asyncio.get_running_loop().call_later(_HELD_S, self._send_beside, b"")
            return
        if self._beside is not None:
            await self._beside_is_sent()
        await self._lines(lines, last=last is Done)

    async def fail(self, error: CouncilError) -> None:
        """End with the error, as a line or as a status."""
        await self._beside_is_sent()
        if self._started or self._held:
            await self._lines(encode_line(Failed(error.to_problem())), last=True)
        elif not self._ended:
            self._ended = True
            await send_problem(self._send, error)

    async def _lines(self, lines: bytes, *, last: bool) -> None:
        if self._ended:
            return
        if self._held:
            lines, self._held = self._held + lines, b""
            self._stop(self._held_until)
        self._sent_at = time.monotonic()
        self._ended = last
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        await self._send({"type": "http.response.body", "body": lines, "more_body": not last})

    # -- what timers send -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Answer:
        self._next_look = asyncio.get_running_loop().call_later(self._every_s, self._look)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop(self._next_look)
        self._stop(self._held_until)
        if self._beside is not None and not self._beside.done():
            self._beside.cancel()
            await asyncio.wait((self._beside,))

    def _look(self) -> None:
        """Between two signs of life nothing wakes up but this timer."""
        left_s = self._every_s - (time.monotonic() - self._sent_at)
        if left_s <= 0:
            left_s = self._every_s
            if self.call is not None:
                self._send_beside(encode_line(Waiting(self.call.phase)))
        self._next_look = asyncio.get_running_loop().call_later(left_s, self._look)

    def _send_beside(self, line: bytes) -> None:
        """In a task of its own, since the reader may be slow to take it; none while one is not taken."""
        if self._beside is None or self._beside.done():
            self._beside = asyncio.create_task(self._lines(line, last=False))

    async def _beside_is_sent(self) -> None:
        if self._beside is not None and not self._beside.done():
            await asyncio.wait((self._beside,))

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
