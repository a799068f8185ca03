"""A streamed chat on its way to the client: text leaves as it comes, and a slow client holds up no engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from common.asgi import Headers, Scope, Send
from common.errors import CouncilError
from common.http_server import CONNECTION, BoundedHttp
from common.protocol import Channel
from master.api.openai_shapes import Answered, ChatCompletion, Chunks, new_id

_HEADERS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
_COMMENT: Final = b": still at work\n\n"  # clients of server-sent events skip it
_SILENCE_S: Final = 10.0  # clients and proxies wait for 15 s and more


class ChatStream:
    """One answer as server-sent events. Its first text or `kept_alive` sends the headers; an error before
    is a status.

    What a client that reads slowly has not taken yet is kept as text, and joined, until it reads again or the
    answer is over: the call goes on meanwhile and lets go of its slot.
    """

    def __init__(self, asked: ChatCompletion, scope: Scope, send: Send) -> None:
        self.chat_id = new_id()
        self.has_begun = False
        self._chunks = Chunks(asked, self.chat_id)
        self._connection: BoundedHttp = scope[CONNECTION]
        self._send = send
        self._kept: list[tuple[Channel, str]] = []

    async def text(self, channel: Channel, text: str) -> None:
        """Send some of the answer. Does not wait for the client."""
        if self._kept or self._connection.is_full:
            if self._kept and self._kept[-1][0] == channel:
                self._kept[-1] = (channel, self._kept[-1][1] + text)
            else:
                self._kept.append((channel, text))
            if not self._connection.is_full:
                await self._write(self._taken())
            return
        await self._write(self._chunks.text(channel, text))

    @asynccontextmanager
    async def kept_alive(self, every_s: float = _SILENCE_S) -> AsyncIterator[None]:
        """Begin now, before there is any text, and say every `every_s` that it goes on."""
        await self._write(b"")
        keeper = asyncio.create_task(self._keep_alive(every_s), name=f"keep-alive {self.chat_id}")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep_alive(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            if not self._connection.is_full:  # a client that has something to read knows
                await self._write(_COMMENT)

    async def end(self, end: Answered) -> None:
        """Send the rest, how it ended, and the last event. Waits for a client that reads slowly."""
        await self._write(self._taken() + self._chunks.last(end), last=True)

    async def fail(self, error: CouncilError) -> None:
        """End a stream that has begun with its error."""
        await self._write(self._taken() + self._chunks.failed(error), last=True)

    def _taken(self) -> bytes:
        kept, self._kept = self._kept, []
        return b"".join([self._chunks.text(channel, text) for channel, text in kept])

    async def _write(self, data: bytes, *, last: bool = False) -> None:
        if not self.has_begun:
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            data = self._chunks.first() + data
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})
