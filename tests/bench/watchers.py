"""Watch sessions over many sockets to their ends: `python -m tests.bench.watchers URL SOCKETS SESSION…`.

Prints a JSON list with an object per socket. `in_order` counts events whose number is one more than the last.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any

import aiohttp
import msgspec


class _Event(msgspec.Struct):
    seq: int
    at: str
    type: str


_decoder = msgspec.json.Decoder(_Event)
_KEEP_LATE_EVERY = 7  # a sample is enough for percentiles


async def watch(client: aiohttp.ClientSession, url: str, session: str) -> dict[str, Any]:
    """One socket from its opening to its close."""
    last = in_order = 0
    late: list[tuple[float, str]] = []
    kind = ""
    async with client.ws_connect(f"{url}/api/council/sessions/{session}/events?after=0") as socket:
        opened = time.time()
        async for message in socket:
            event = _decoder.decode(message.data)
            in_order += event.seq == last + 1 and event.type != "snapshot"
            last, kind = event.seq, event.type
            if event.seq % _KEEP_LATE_EVERY == 0:
                late.append((time.time(), event.at))
        ended = time.time()
        if socket.close_code != 1000 or kind != "session.completed":
            raise RuntimeError(f"a socket ended with {socket.close_code} after {kind}")
    return {
        "session": session,
        "in_order": in_order,
        "last_seq": last,
        "opened": opened,
        "ended": ended,
        # What had happened before the socket opened was not late, but asked for later.
        "late_ms": [(at - sent) * 1000 for at, said in late if (sent := _seconds(said)) > opened],
    }


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


async def main(url: str, sockets: int, sessions: list[str]) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(watch(client, url, session)) for session in sessions for _ in range(sockets)
            ]
    sys.stdout.write(json.dumps([task.result() for task in tasks]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
