"""What a failed connection says of the other end, by connections that fail."""

from __future__ import annotations

import asyncio
import errno
import socket

import httpx
import pytest

from common.http_client import make_client
from common.no_answer import why_no_answer


async def _fail(url: str, *, wait_s: float = 5.0) -> str:
    client = make_client(url, connect_timeout_s=wait_s, read_timeout_s=wait_s)
    try:
        with pytest.raises(httpx.HTTPError) as failed:
            await client.get("/")
        return why_no_answer(failed.value)
    finally:
        await client.aclose()


async def test_a_refused_connection_is_no_time_out() -> None:
    with socket.socket() as held:  # bound, and not listening
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        assert await _fail(url) == "nothing listens there"
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.ConnectError) as failed:
                await http.get(url)
        assert why_no_answer(failed.value) == "nothing listens there"


async def test_one_that_listens_and_says_nothing_is_a_time_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        told = await _fail(f"http://127.0.0.1:{silent.getsockname()[1]}", wait_s=0.2)
    assert told.startswith("no answer in time")


async def test_one_that_hangs_up_cut_the_connection() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        told = await _fail(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert told == "the connection was cut"


async def test_a_name_that_nobody_has_is_told_as_such() -> None:
    assert await _fail("http://nobody.invalid:8000") == "no machine of that name is known"


def test_a_machine_that_no_way_leads_to_is_not_there() -> None:
    lost = httpx.ConnectTimeout("")
    lost.__cause__ = OSError(errno.EHOSTUNREACH, "No route to host")
    assert why_no_answer(lost) == "no such machine is on the network now"


def test_what_is_not_known_keeps_its_name() -> None:
    assert why_no_answer(httpx.RemoteProtocolError("")) == "RemoteProtocolError"
