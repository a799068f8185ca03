"""Watching sessions over WebSocket, as a client does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Event = dict[str, Any]


def socket_to(url: str, session_id: str, after: int | None = None, **more: Any) -> connect:
    """`async with socket_to(…) as socket`; uncompressed, so that bytes sent are bytes on the way.

    Its queue is unbounded, or closing would wait ten seconds behind events that nobody reads any more.
    """
    query = "" if after is None else f"?after={after}"
    address = f"{url.replace('http', 'ws', 1)}/api/council/sessions/{session_id}/events{query}"
    return connect(
        address, **{"compression": None, "proxy": None, "max_size": None, "max_queue": None, **more}
    )


async def read(socket: ClientConnection) -> AsyncIterator[Event]:
    """Events until the socket is closed, whatever the code."""
    try:
        async for message in socket:
            yield json.loads(message)
    except ConnectionClosed:
        return


async def watch(url: str, session_id: str, after: int | None = None) -> tuple[list[Event], int | None]:
    """All events after a number to the end, and the code the socket was closed with."""
    async with socket_to(url, session_id, after) as socket:
        events = [event async for event in read(socket)]
        return events, socket.close_code


def types(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def text_of(events: list[Event], stage: str, agent_id: str, channel: str = "answer") -> str:
    """The pieces of one call, joined; what a restart made void is left out."""
    text = ""
    for event in events:
        if (event.get("stage"), event.get("agent_id")) == (stage, agent_id):
            if event["type"] == "call.restarted":
                text = ""
            if event["type"] == "call.delta" and event["channel"] == channel:
                text += event["text"]
    return text
