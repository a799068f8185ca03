"""How much longer a node may be silent while long requests are on their way to it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from master.cluster.uploads import AT_ONCE_BYTES, SLOWEST_LINK_BYTES_PER_S, Uploads

LONG = 100 * SLOWEST_LINK_BYTES_PER_S


def left_s(timer: asyncio.Timeout) -> float:
    due = timer.when()
    assert due is not None
    return due - asyncio.get_running_loop().time()


async def test_a_short_request_gets_no_more_time() -> None:
    uploads = Uploads()
    async with AsyncExitStack() as stack:
        timer = await stack.enter_async_context(asyncio.timeout(5))
        uploads.begin(timer, AT_ONCE_BYTES)
        assert left_s(timer) == pytest.approx(5, abs=0.5)


async def test_requests_that_share_a_link_wait_for_each_other_until_they_are_answered() -> None:
    uploads = Uploads()
    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(asyncio.timeout(5)) for _ in range(3)]
        uploads.begin(first, LONG)
        uploads.begin(second, LONG)
        assert left_s(first) == pytest.approx(205, abs=0.5)
        assert left_s(second) == pytest.approx(205, abs=0.5)
        uploads.end(first)
        uploads.end(first)
        uploads.begin(third, LONG)
        assert left_s(first) == pytest.approx(205, abs=0.5)
        assert left_s(second) == pytest.approx(305, abs=0.5)
        assert left_s(third) == pytest.approx(205, abs=0.5)


async def test_a_call_that_is_being_ended_is_not_put_off() -> None:
    uploads = Uploads()
    async with AsyncExitStack() as stack:
        ending, other = [await stack.enter_async_context(asyncio.timeout(5)) for _ in range(2)]
        uploads.begin(ending, LONG)
        ending.reschedule(asyncio.get_running_loop().time())  # as a pre-empted call's is
        uploads.begin(other, LONG)
        assert left_s(ending) <= 0
        ending.reschedule(None)
