"""The HTTP client's connections."""

from __future__ import annotations

import asyncio
import socket

from common.http_client import make_transport


async def test_a_peer_that_falls_silent_is_asked_whether_it_lives() -> None:
    gone = asyncio.Event()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    transport = make_transport()
    try:
        async with await transport.post(url, headers=[], body=b"", connect_timeout_s=5.0) as response:
            assert response.connection is not None
            assert response.connection.transport is not None
            connected: socket.socket = response.connection.transport.get_extra_info("socket")
            assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
            if hasattr(socket, "TCP_KEEPIDLE"):
                idle_s = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                every_s = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                times = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
                assert idle_s + every_s * times <= 90
    finally:
        await transport.aclose()
        await gone.wait()
        server.close()
        await server.wait_closed()
