"""The HTTP server's protocol, with the one bound that the parser itself does not have, and fewer writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.errors import PROBLEM_MEDIA_TYPE, HeadersTooLargeError

MAX_HEAD_BYTES = 64 * 1024
CONNECTION = "lan_council.connection"  # in the scope of each request: the `BoundedHttp` that it came by


class _HeadWaits:
    """A transport that sends the head of an answer together with the first part of its body.

    uvicorn writes one after the other, and each would be a system call here and wake the reader there.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1."):
            self._head = data
            self._loop.call_soon(self._flush)  # no part may come in this turn of the loop
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():  # it may have been lost since
            self._transport.write(head)


class BoundedHttp(HttpToolsProtocol):
    """Refuses a request whose line and headers outgrow `MAX_HEAD_BYTES`, before they fill the memory.

    The size is looked at after each read, so a head that one read brings whole may be somewhat larger.
    `watchers` are called when the connection is lost, whichever side ended it; `common.asgi` uses them.
    """

    _head_bytes = 0
    _in_head = False
    is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.watchers: set[Callable[[], None]] = set()
        super().connection_made(cast(asyncio.Transport, _HeadWaits(transport)))

    @property
    def is_full(self) -> bool:
        """Whether the other end takes less than it is sent: what is written now waits in memory."""
        return self.flow.write_paused

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        super().connection_lost(exc)
        for lost in tuple(self.watchers):
            lost()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[CONNECTION] = self

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def _refuse(self) -> None:
        error = HeadersTooLargeError(f"a request's headers may have {MAX_HEAD_BYTES // 1024} KiB at most")
        body = msgspec.json.encode(error.to_problem())
        head = (
            f"HTTP/1.1 {error.status} Request Header Fields Too Large\r\n"
            f"content-type: {PROBLEM_MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
