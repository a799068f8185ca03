"""Who asks is on a bad network: latency, a connection that is open and dead, and a master that comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from master.cli.client import MasterClient
from master.cli.follow import Follower
from master.cli.watch import Watch
from tests.service.chaos import fleet as fleets
from tests.service.chaos.fleet import Fleet
from tests.service.chaos.slow_link import SlowLink
from tests.service.master.rig import CHAIRMAN, model

BODY = {"question": "Can you hear me?", "selected_agents": ["m1", "m2"], "chairman": CHAIRMAN}


@asynccontextmanager
async def reached(folder: Path, *, token_ms: float) -> AsyncIterator[tuple[Fleet, SlowLink]]:
    """A master behind a link."""
    models = {"pc2": [model(name, token_ms=token_ms) for name in ("m1", "m2", CHAIRMAN)]}
    async with fleets.running(folder, models) as fleet:
        link = SlowLink("127.0.0.1", fleet.port)
        async with link.open():
            yield fleet, link


async def test_the_command_follows_a_session_over_a_link_with_latency(tmp_path: Path) -> None:
    async with reached(tmp_path, token_ms=5) as (_, link):
        link.latency_s = 0.2
        async with MasterClient(link.url) as client, asyncio.timeout(40):
            watch = Watch((await client.post("/api/council/sessions", BODY))["id"])
            await Follower(client, watch).run()
    assert (watch.state, watch.result) == ("completed", "full")


@pytest.mark.long
async def test_the_command_leaves_a_connection_that_is_open_and_dead(tmp_path: Path) -> None:
    async with reached(tmp_path, token_ms=500) as (_, link):
        async with MasterClient(link.url) as client, asyncio.timeout(110):
            watch = Watch((await client.post("/api/council/sessions", BODY))["id"])
            heard = asyncio.Event()
            follower = Follower(client, watch, on_event=heard.set)
            following = asyncio.create_task(follower.run())
            while watch.seq < 10:
                heard.clear()
                await heard.wait()
            link.strand()
            since, heard_until = time.monotonic(), watch.seq
            while watch.seq == heard_until:
                heard.clear()
                await heard.wait()
            silent_s = time.monotonic() - since
            await following
    assert (watch.state, watch.result) == ("completed", "full")
    assert silent_s < 15
