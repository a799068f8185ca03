"""The answer to one call on the wire, and the companion that runs beside the call."""

from __future__ import annotations

import asyncio
import time

from common.errors import CouncilError
from common.logs import get_logger
from common.protocol import NDJSON_MEDIA_TYPE, Done, Failed, Waiting, encode_line
from worker_node.asgi import ClientGoneError, Headers, Receive, Send, send_problem
from worker_node.call import Call, CallMessage

log = get_logger(__name__)

_STREAM_HEADERS: Headers = [
    (b"content-type", NDJSON_MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Answer:
    """One answer: its first line sends the headers, an error before that sends a status."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.sent_at = time.monotonic()
        self.ended = False
        self._started = False

    async def message(self, message: CallMessage | Waiting) -> None:
        """Send one line; `Done` is the last one."""
        await self._line(encode_line(message), last=type(message) is Done)

    async def fail(self, error: CouncilError) -> None:
        """End with the error, as a line or as a status."""
        if self._started:
            await self._line(encode_line(Failed(error.to_problem())), last=True)
        elif not self.ended:
            self.ended = True
            await send_problem(self.send, error)

    async def _line(self, line: bytes, *, last: bool) -> None:
        if self.ended:
            return
        self.sent_at = time.monotonic()
        self.ended = last
        if not self._started:
            self._started = True
            await self.send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        await self.send({"type": "http.response.body", "body": line, "more_body": not last})


class Companion:
    """Runs beside a call: cancels it when the caller hangs up, and sends its signs of life.

    Used as `async with`; a hang-up leaves the block as `ClientGoneError`, other errors pass as they are.
    Without an `answer` it only watches.
    """

    def __init__(self, receive: Receive, answer: Answer | None, every_s: float) -> None:
        self.call: Call | None = None
        self._receive = receive
        self._answer = answer
        self._every_s = every_s
        self._gone = False

    async def __aenter__(self) -> Companion:
        self._owner = asyncio.current_task()
        self._task = asyncio.create_task(self._watch() if self._answer is None else self._beat(self._answer))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        if self._gone:
            if self._owner is not None:
                self._owner.uncancel()
            raise ClientGoneError from error
        if not self._task.cancelled() and (failure := self._task.exception()) is not None:
            log.warning("watching a caller failed", error=str(failure))

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._answer is not None and self._answer.ended:
            return  # servers report the end of an answer as a disconnect, too
        self._gone = True
        if self._owner is not None:
            self._owner.cancel()

    async def _beat(self, answer: Answer) -> None:
        while True:
            silent_s = time.monotonic() - answer.sent_at
            if silent_s >= self._every_s:
                if self.call is not None:
                    await answer.message(Waiting(self.call.phase))
                silent_s = 0.0
            try:
                async with asyncio.timeout(self._every_s - silent_s):
                    return await self._watch()
            except TimeoutError:
                continue
