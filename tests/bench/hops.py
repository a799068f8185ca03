"""Two programs that do nothing but hand a request on, one behind the other: what two hops cost by themselves.

`bare`: a raw ASGI function and aiohttp, the least that two Python programs on these libraries can take.
`framework`: FastAPI and httpx, as most such programs are written.
`python -m tests.bench.hops KIND PORT TARGET` is one of the two.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import httpx
import uvicorn
from fastapi import FastAPI, Request, Response

from common.asgi import Receive, Scope, Send, read_body
from tests import processes
from tests.bench.peers import Peer, end, free_port, until_listening

NAMES = {"bare": "two bare hops", "framework": "two FastAPI + httpx hops"}
ASSUMED_MS = 2.0  # what `framework` costs a call on the machine that the targets were set for
_PATH = "/call"
_MOST_BYTES = 1 << 20
_HEADERS = {"content-type": "application/json"}


@asynccontextmanager
async def two_hops(kind: str, engine: str) -> AsyncIterator[Peer]:
    """Both before the engine at that URL."""
    async with AsyncExitStack() as stack:
        target, pids = f"{engine}/api/chat", []
        for _ in range(2):
            port = free_port()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bench.hops", kind, str(port), target),
                cwd=processes.ROOT,
                stdin=asyncio.subprocess.DEVNULL,
            )
            stack.push_async_callback(end, process)
            await until_listening(port, process)
            target = f"http://127.0.0.1:{port}{_PATH}"
            pids.append(process.pid)
        yield Peer(NAMES[kind], target, "ollama", tuple(pids))


class Bare:
    """Reads what comes from its target and sends it on, read by read."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            jar = aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=jar)
        body = await read_body(receive, _MOST_BYTES)
        async with self._session.post(self._target, data=body, headers=_HEADERS) as answer:
            head = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": answer.status, "headers": head})
            while data := await answer.content.readany():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def framework(target: str) -> FastAPI:
    """The same as a route of FastAPI with a client of httpx."""
    app = FastAPI()
    clients: list[httpx.AsyncClient] = []

    @app.post(_PATH)
    async def call(request: Request) -> Response:
        if not clients:
            clients.append(httpx.AsyncClient(timeout=60, trust_env=False))
        answer = await clients[0].post(target, content=await request.body(), headers=_HEADERS)
        return Response(answer.content, answer.status_code, media_type="application/json")

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=NAMES)
    parser.add_argument("port", type=int)
    parser.add_argument("target")
    asked = parser.parse_args()
    app: Any = Bare(asked.target) if asked.kind == "bare" else framework(asked.target)
    uvicorn.run(
        app, port=asked.port, log_level="error", access_log=False, lifespan="off", timeout_keep_alive=75
    )


if __name__ == "__main__":
    main()
