"""A node hears its master by the member's key, in whatever it calls; nobody else counts."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from common.asgi import Receive, Scope, Send, send_body
from worker_node.asgi import Gatekeeper
from worker_node.membership import Belonging, Membership

OF_THE_MASTER, OF_A_PERSON = "lcn_of-the-master", "lc_of-a-person"


async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_body(send, 200, [], b"")


@pytest.mark.parametrize("path", ["/health", "/health/models"])
async def test_a_call_of_the_master_is_heard_and_no_other(path: str, tmp_path: Path) -> None:
    belonging = Belonging(tmp_path, Membership(name="pc2", key=OF_THE_MASTER, master="https://pc1:8000"))
    keys = [OF_A_PERSON, OF_THE_MASTER]
    gate = Gatekeeper(answer, keys=lambda: keys, loopback_only=False, heard=belonging.hear)
    transport = httpx.ASGITransport(gate)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as caller:
        for key in (None, "wrong", OF_A_PERSON):
            await caller.get(path, headers={"authorization": f"Bearer {key}"} if key else {})
            assert belonging.heard_at == float("-inf")
        await caller.get(path, headers={"authorization": f"Bearer {OF_THE_MASTER}"})
        assert belonging.heard_at > 0
