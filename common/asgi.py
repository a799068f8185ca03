"""The raw ASGI parts of both programs: bodies with a limit, whole answers, and callers that hang up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from types import TracebackType
from typing import Any

from common.errors import PayloadTooLargeError
from common.http_server import CONNECTION, BoundedHttp

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON_HEADERS: Headers = [(b"content-type", b"application/json")]


class ClientGoneError(Exception):
    """The caller hung up; nobody is left to answer."""


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name (in lower case), as text."""
    for one, value in scope["headers"]:
        if one == name:
            text: str = value.decode("latin-1")
            return text
    return None


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises `PayloadTooLargeError` beyond `limit` bytes, `ClientGoneError` on a hang-up."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > limit:
            raise PayloadTooLargeError(f"the body is larger than {limit} bytes")
        if not message.get("more_body", False):
            return body


async def send_body(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


class UntilHangUp:
    """A block that lasts as long as its caller stays: a hang-up cancels it, and it ends as `ClientGoneError`.

    The connection calls back, so that no task has to wait for it. Enter it once the body is read; it is for
    requests that our own server took (`common.http_server`). Other errors pass as they are.
    """

    __slots__ = ("_connection", "_gone", "_owner")

    def __init__(self, scope: Scope) -> None:
        self._connection: BoundedHttp = scope[CONNECTION]
        self._gone = False
        self._owner: asyncio.Task[Any] | None = None

    def __enter__(self) -> UntilHangUp:
        if self._connection.is_lost:
            raise ClientGoneError
        self._owner = asyncio.current_task()
        self._connection.watchers.add(self._hung_up)
        self._connection.flow.resume_reading()  # a long body has stopped it, and the end would not be read
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.watchers.discard(self._hung_up)
        if self._gone:
            if self._owner is not None:
                self._owner.uncancel()
            raise ClientGoneError from error

    def _hung_up(self) -> None:
        self._gone = True
        if self._owner is not None:
            self._owner.cancel()
