"""A streamed chat between its chunks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from common.http_server import CONNECTION
from common.usage import TokenUsage
from master.api.chat_stream import ChatStream
from master.api.openai_shapes import Answered, ChatCompletion

ASKED = ChatCompletion.model_validate({"model": "council", "messages": [{"role": "user", "content": "?"}]})


class _Client:
    """What a client of the stream is sent; `told(n)` waits until it is n messages."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.connection = SimpleNamespace(is_full=is_full)
        self.messages: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.messages.append(message)
        self._news.set()

    async def told(self, count: int) -> None:
        while len(self.messages) < count:
            self._news.clear()
            await self._news.wait()

    def stream(self) -> ChatStream:
        return ChatStream(ASKED, {CONNECTION: self.connection}, self.send)

    @property
    def bodies(self) -> list[bytes]:
        return [one["body"] for one in self.messages if one["type"] == "http.response.body"]


@pytest.mark.asyncio
async def test_a_silent_answer_is_kept_alive_by_comments_until_it_ends() -> None:
    client = _Client()
    stream = client.stream()
    async with asyncio.timeout(10):
        async with stream.kept_alive(0.001):
            await client.told(4)  # the headers, the role, two comments
        await stream.end(Answered("stop", TokenUsage.of(1, 1)))
        ended = len(client.messages)
        await asyncio.sleep(0.02)
    assert b'"role":"assistant"' in client.bodies[0]
    assert all(body.startswith(b": ") and body.endswith(b"\n\n") for body in client.bodies[1:-1])
    assert client.bodies[-1].endswith(b"data: [DONE]\n\n")
    assert len(client.messages) == ended, "nothing may follow the end"


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_sent_no_comments() -> None:
    client = _Client(is_full=True)
    stream = client.stream()
    async with stream.kept_alive(0.001):
        await asyncio.sleep(0.02)
    assert len(client.bodies) == 1
