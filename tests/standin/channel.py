"""One response body, written chunk by chunk; headers go out with the first chunk."""

from __future__ import annotations

import asyncio
import socket
import struct
from itertools import pairwise

from aiohttp import web

from tests.standin.engine import for_ever
from tests.standin.faults import Fault, FaultKind

_GAP_MS = 2.0


class Channel:
    """The stream of one request. Each `send` is one chunked write, unless a fault reshapes it."""

    def __init__(self, request: web.BaseRequest, content_type: str, faults: tuple[Fault, ...] = ()) -> None:
        self._request = request
        self._response = web.StreamResponse(headers={"Content-Type": content_type})
        self._opened = False
        self._held: list[bytes] | None = None
        self._shape: FaultKind | None = None
        self._gap_s = _GAP_MS / 1000
        self._final_newline = True
        for fault in faults:
            if fault.kind is FaultKind.ONE_WRITE:
                self._held = []
            elif fault.kind in (FaultKind.SPLIT_LINES, FaultKind.SPLIT_MULTIBYTE):
                self._shape = FaultKind(fault.kind)
                self._gap_s = (fault.stall_ms if fault.stall_ms is not None else _GAP_MS) / 1000
            elif fault.kind is FaultKind.NO_FINAL_NEWLINE:
                self._final_newline = False

    @property
    def opened(self) -> bool:
        """Whether headers were sent."""
        return self._opened

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Write `data`; the `last` line may lose its newline to a fault."""
        if last and not self._final_newline:
            data = data.rstrip(b"\n")
        if self._held is not None:
            self._held.append(data)
        elif self._shape is None:
            await self._write(data)
        else:
            for index, part in enumerate(_parts(data, self._shape)):
                if index:
                    await asyncio.sleep(self._gap_s)
                await self._write(part)

    async def close(self) -> web.StreamResponse:
        """End the body; an answer without a chunk has headers and no body."""
        if self._held:
            data, self._held = b"".join(self._held), None
            await self._write(data)
        await self._open()
        await self._response.write_eof()
        return self._response

    async def cut(self, half_line: bytes, *, reset: bool) -> None:
        """Send `half_line`, then drop the connection. Does not return: the request is cancelled."""
        held, self._held = self._held or [], None
        if half_line or held:
            await self._write(b"".join([*held, half_line]))
        drop(self._request.transport, reset=reset)
        await for_ever()

    async def _open(self) -> None:
        if not self._opened:
            self._opened = True
            self._response.enable_chunked_encoding()
            await self._response.prepare(self._request)

    async def _write(self, data: bytes) -> None:
        if not self._opened:
            await self._open()
        await self._response.write(data)


def drop(transport: asyncio.Transport | None, *, reset: bool = False) -> None:
    """Close a connection at once; with `reset` the peer sees a TCP reset in place of an end."""
    if transport is None:
        return
    if reset:
        peer = transport.get_extra_info("socket")
        if peer is not None:
            # SO_LINGER with zero seconds: two ints on POSIX, two shorts on Windows.
            layout = "hh" if hasattr(socket, "SIO_RCVALL") else "ii"
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(layout, 1, 0))
    transport.abort()


def _parts(data: bytes, shape: FaultKind) -> list[bytes]:
    if shape is FaultKind.SPLIT_LINES:
        third = max(1, len(data) // 3)
        return [part for part in (data[:third], data[third : 2 * third], data[2 * third :]) if part]
    cuts = [0, *(i + 1 for i, byte in enumerate(data) if byte >= 0xC0), len(data)]
    return [data[a:b] for a, b in pairwise(cuts) if b > a]
