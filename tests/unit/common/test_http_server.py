"""What the server's protocol writes, and when."""

from __future__ import annotations

import asyncio
from typing import cast

from common.http_server import _HeadWaits

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Written:
    """A transport that keeps what it is given, a write each."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def waiting() -> tuple[Written, _HeadWaits]:
    written = Written()
    return written, _HeadWaits(cast(asyncio.Transport, written))


async def test_a_head_travels_with_the_first_part_of_its_body() -> None:
    written, transport = waiting()
    for data in (HEAD, b"ab", b"cd"):
        transport.write(data)
    assert written.writes == [HEAD + b"ab", b"cd"]
    await asyncio.sleep(0)
    assert len(written.writes) == 2


async def test_a_head_whose_body_is_late_goes_alone() -> None:
    written, transport = waiting()
    transport.write(HEAD)
    assert written.writes == []
    await asyncio.sleep(0)
    transport.write(b"ab")
    assert written.writes == [HEAD, b"ab"]


async def test_a_head_is_not_lost_by_a_close_and_not_written_after_one() -> None:
    written, transport = waiting()
    transport.write(HEAD)
    transport.close()
    assert (written.writes, written.closed) == ([HEAD], True)
    written, transport = waiting()
    transport.write(HEAD)
    written.closed = True  # the other end has gone
    await asyncio.sleep(0)
    assert written.writes == []
