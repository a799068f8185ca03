"""Finding the master: what answers late is there all the same."""

from __future__ import annotations

import asyncio

from master.cli.locate import locate

HEALTH = b'{"role": "master"}'
BUSY_S = 4.0


async def test_a_master_on_a_busy_pc_is_found_though_it_takes_seconds_to_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(BUSY_S)  # the claim is about this time
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(HEALTH), HEALTH))
        finally:
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        found = await locate(url, None)
    assert found is not None
    assert found.url == url
