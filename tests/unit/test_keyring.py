"""Keys in memory: reads of the database may overlap, and what is revoked stays revoked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import cast

from common.security import digest_of
from master.cluster.registry import Registry
from master.keyring import KeyRing
from master.state.access import AccessKey, AccessRepository

ANN = "lc_the-key-of-ann"


class SlowRows:
    """Keys that a read takes at its begin and tells when the test lets it end."""

    def __init__(self, *keys: str) -> None:
        self.keys_now = keys
        self.begun: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def keys(self) -> list[AccessKey]:
        seen, may_end = self.keys_now, asyncio.Event()
        self.begun.put_nowait(may_end)
        await may_end.wait()
        return [AccessKey(one, "person", datetime.now(UTC), digest_of(one)) for one in seen]


def ring(rows: SlowRows) -> KeyRing:
    return KeyRing(cast(AccessRepository, rows), cast(Registry, None), admin_key=None)


async def test_a_read_that_began_before_a_key_was_revoked_does_not_revive_it() -> None:
    rows = SlowRows(ANN)
    keys = ring(rows)
    early = asyncio.create_task(keys.find(ANN))
    first = await rows.begun.get()
    rows.keys_now = ()
    keys.forget()
    late = asyncio.create_task(keys.find(ANN))
    second = await rows.begun.get()
    second.set()
    assert await late is None
    first.set()
    assert await early is None
    assert await keys.find(ANN) is None


async def test_the_rows_of_a_later_read_stay_when_an_earlier_one_ends_after_it() -> None:
    """Another master revoked it in between, and nobody here was told."""
    rows = SlowRows(ANN)
    keys = ring(rows)
    early = asyncio.create_task(keys.find(ANN))
    first = await rows.begun.get()
    rows.keys_now = ()
    late = asyncio.create_task(keys.find(ANN))
    second = await rows.begun.get()
    second.set()
    assert await late is None
    first.set()
    assert await early is None
    assert await keys.find(ANN) is None


async def test_a_key_that_is_revoked_while_the_rows_are_read_is_not_found_in_them() -> None:
    rows = SlowRows(ANN)
    keys = ring(rows)
    found = asyncio.create_task(keys.find(ANN))
    first = await rows.begun.get()
    rows.keys_now = ()
    keys.forget()
    first.set()
    second = await rows.begun.get()
    second.set()
    assert await found is None
