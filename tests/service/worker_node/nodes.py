"""Running nodes for the tests: in this process on a real socket, or as a process of their own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from common.http_client import make_client
from common.node_settings import NodeSettings
from common.program import Ready
from common.protocol import Delta, Done, Failed, LineSplitter, StreamMessage, stream_decoder
from tests import zygote
from worker_node.main import serve

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Node:
    """A node that answers at `url`."""

    url: str
    client: httpx.AsyncClient
    stop: asyncio.Event
    serving: asyncio.Task[None]

    async def lines(self, **fields: Any) -> list[StreamMessage]:
        """All messages of one streamed call."""
        return [message async for message in self.stream(**fields)]

    async def stream(self, **fields: Any) -> AsyncGenerator[StreamMessage, None]:
        splitter = LineSplitter()
        async with self.client.stream("POST", "/api/generate", json={"stream": True, **fields}) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"] == "application/x-ndjson"
            async for data in response.aiter_raw():
                for line in splitter.feed(data):
                    yield stream_decoder.decode(line)
        assert splitter.rest == b""

    async def whole(self, **fields: Any) -> httpx.Response:
        """One call that is answered at once."""
        return await self.client.post("/api/generate", json={"stream": False, **fields})


@asynccontextmanager
async def node_in_process(tmp_path: Path, **settings: Any) -> AsyncIterator[Node]:
    """Serve on a free port; stop and wait for the end at exit."""
    values: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "name": "pc2", "data_dir": tmp_path, **settings}
    ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    headers = {"authorization": f"Bearer {values['key']}"} if values.get("key") else {}
    serving = asyncio.create_task(serve(NodeSettings(**values), on_ready=ready.set_result, stop=stop))
    await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    client = make_client(ready.result().url, connect_timeout_s=5, read_timeout_s=30, headers=headers)
    try:
        yield Node(ready.result().url, client, stop, serving)
    finally:
        await client.aclose()
        stop.set()
        await serving


class NodeProcess:
    """`python -m worker_node` with its standard streams; ends with the block.

    Forked where that can be done and `forked` does not forbid it: a fork has the memory of all test programs.
    """

    process: subprocess.Popen[bytes] | zygote.Running

    def __init__(self, tmp_path: Path, *flags: str, forked: bool = True, **environment: str) -> None:
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("COUNCIL_", "OLLAMA_", "BG_"))
        }
        arguments = ("--port", "0", "--data-dir", str(tmp_path), *flags)
        env = {**clean, "COUNCIL_DISCOVERY": "false", **environment}
        if forked and zygote.AVAILABLE:
            self.process = zygote.Running("worker_node", arguments, env=env, cwd=ROOT)
            return
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker_node", *arguments],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def ready(self) -> dict[str, Any]:
        """What the node prints when it answers."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors()
        told: dict[str, Any] = json.loads(line)
        return told

    def errors(self) -> str:
        """Standard error, once the process has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def text_of(messages: list[StreamMessage], channel: str = "answer") -> str:
    return "".join(one.text for one in messages if isinstance(one, Delta) and one.channel == channel)


def error_of(messages: list[StreamMessage]) -> dict[str, Any]:
    """The problem that ended a stream."""
    last = messages[-1]
    assert isinstance(last, Failed), last
    return last.error


def done_of(messages: list[StreamMessage]) -> Done:
    last = messages[-1]
    assert isinstance(last, Done), last
    return last


def kinds(messages: list[StreamMessage]) -> list[str]:
    """The types of the messages, in order."""
    return [msgspec.to_builtins(one)["type"] for one in messages]
