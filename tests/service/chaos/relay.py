"""`python -m tests.service.chaos.relay SOCKET HOST PORT`: a Unix socket that leads to a TCP address.

Unix sockets are reached from every network namespace, so a test can talk into one. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def relay(path: str, host: str, port: int) -> None:
    """Serve until standard input closes."""

    async def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(host, port)
                writers.append(far_writer)
                await asyncio.gather(passing(reader, far_writer), passing(far_reader, writer))
        finally:
            for one in writers:
                one.close()

    async with await asyncio.start_unix_server(accept, path):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], sys.argv[2], int(sys.argv[3])))
