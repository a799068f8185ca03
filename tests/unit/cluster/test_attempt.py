"""One attempt at its node: what ends it, and when."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.errors import PreemptedError
from common.protocol import GenerateRequest
from master.cluster.attempt import Attempt, Limits
from master.cluster.calls import SilentWatcher
from master.cluster.node import Node
from master.cluster.node_client import Messages, NodeClient

LIMITS = Limits(60.0, 60.0, 30.0, 10.0, 60.0, frozen_s=0.05)


class SilentClient(NodeClient):
    """A node that takes the call and never says a word."""

    def __init__(self) -> None:
        super().__init__("pc2", "http://127.0.0.1:1", None, connect_timeout_s=1.0)
        self.asked = asyncio.Event()

    async def unload(self, model: str, engine: str) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    async def generate(self, body: bytes, *, traceparent: str | None) -> Messages:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError("never")


async def test_an_attempt_is_pre_empted_in_the_moment_in_which_it_is_given_up_as_frozen() -> None:
    client, now = SilentClient(), time.monotonic()
    attempt = Attempt("pc2", "m", now, now)
    request = GenerateRequest(model="m", prompt="Why?")
    streams = asyncio.create_task(
        attempt.stream(Node("pc2", client), request, SilentWatcher(), LIMITS, lambda: None)
    )
    await client.asked.wait()
    errors: list[BaseException] = []

    def preempt() -> None:
        try:
            attempt.preempt()
        except RuntimeError as error:
            errors.append(error)

    loop = asyncio.get_running_loop()
    loop.call_later(LIMITS.frozen_s + 0.01, preempt)  # due after the timer of the silence, in the same turn
    time.sleep(2 * LIMITS.frozen_s)  # noqa: ASYNC251  # so that both are due
    with pytest.raises(PreemptedError):
        await streams
    assert errors == []
    await client.aclose()


async def test_an_attempt_is_pre_empted_while_it_makes_room_for_its_model() -> None:
    client, now = SilentClient(), time.monotonic()
    attempt = Attempt("pc2", "m", now, now)
    evicts = asyncio.create_task(attempt.evict(Node("pc2", client), "n", "main"))
    await client.asked.wait()
    attempt.preempt()
    with pytest.raises(PreemptedError):
        await asyncio.wait_for(evicts, 0.25)
    client.asked.clear()
    with pytest.raises(PreemptedError):
        await attempt.evict(Node("pc2", client), "n", "main")
    assert not client.asked.is_set(), "it was asked for nothing once it had to go"
    await client.aclose()
