"""The HTTP server's protocol, with the one bound that the parser itself does not have."""

from __future__ import annotations

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.errors import PROBLEM_MEDIA_TYPE, HeadersTooLargeError

MAX_HEAD_BYTES = 64 * 1024


class BoundedHttp(HttpToolsProtocol):
    """Refuses a request whose line and headers outgrow `MAX_HEAD_BYTES`, before they fill the memory.

    The size is looked at after each read, so a head that one read brings whole may be somewhat larger.
    """

    _head_bytes = 0
    _in_head = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

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
