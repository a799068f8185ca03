"""One running `llama_process`, seen from the node: started, spoken to, and certainly ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import msgspec

from common.errors import CouncilError, EngineFailedError, LoadTimeoutError, OutOfMemoryError
from common.http_client import make_client, make_transport
from common.logs import get_logger
from worker_node.engines.llama_process import KEY_VARIABLE
from worker_node.engines.ollama_errors import error_of_body
from worker_node.engines.wire_client import WireClient

log = get_logger(__name__)

LOAD_LIMIT_S: Final = 900.0
_STOP_S: Final = 3.0
_SETTLE_S: Final = 1.0
_CONNECT_S: Final = 5.0
_LOG_LINES: Final = 60
_NO_MEMORY: Final = re.compile(
    r"out of memory|failed to allocate|unable to allocate|cannot allocate|bad_alloc|failed to create context"
    r"|insufficient memory|std::length_error",
    re.IGNORECASE,
)
_LOG_PREFIX: Final = re.compile(r"^[\d.]+ [A-Z] ")


class LlamaChild:
    """One child process with one model. `start` once, `stop` once; `client` and `wire` in between."""

    client: httpx.AsyncClient
    wire: WireClient

    def __init__(
        self, path: Path, *, model: str, slots: int, context: int, threads: int, embeddings: bool = False
    ) -> None:
        self.model = model
        self.path = path
        self.last_used = time.monotonic()
        self._arguments = ["--model", str(path), "--slots", str(slots), "--context", str(context)]
        self._arguments += ["--threads", str(threads), *(["--embeddings"] if embeddings else [])]
        self._process: asyncio.subprocess.Process | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._readers: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.alive else None

    async def start(self) -> None:
        """Load the model. Raises `EngineFailedError`, `OutOfMemoryError` or `LoadTimeoutError`."""
        key = secrets.token_urlsafe(24)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "worker_node.engines.llama_process",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment() | {KEY_VARIABLE: key},
        )
        assert self._process.stderr is not None
        self._readers.append(asyncio.create_task(self._keep_log(self._process.stderr), name="llama log"))
        try:
            async with asyncio.timeout(LOAD_LIMIT_S):
                port = await self._port()
        except TimeoutError as error:
            await self.stop()
            raise LoadTimeoutError(
                f"loading {self.path.name} took more than {LOAD_LIMIT_S:.0f} s", model=self.model
            ) from error
        except BaseException:
            await self.stop()
            raise
        transport = make_transport()
        self.client = make_client(
            f"http://127.0.0.1:{port}",
            transport=transport,
            connect_timeout_s=_CONNECT_S,
            headers={
                "authorization": f"Bearer {key}",
                "accept-encoding": "identity",
                # llama.cpp promises `Keep-Alive` and closes after each stream all the same: a second call
                # on that connection would fail now and then.
                "connection": "close",
            },
        )
        self.wire = WireClient(
            self.client,
            what=f"llama.cpp with {self.path.name}",
            error_of_body=partial(error_of_body, model=self.model),
            transport=transport,
        )

    async def _port(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                told = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue  # a library that prints
            if isinstance(told, dict) and isinstance(port := told.get("port"), int):
                self._readers.append(asyncio.create_task(_drain(self._process.stdout), name="llama output"))
                return port
            if isinstance(told, dict) and "error" in told:
                break
        await self._process.wait()
        await asyncio.gather(*self._readers)
        raise self._load_failure(self._process.returncode)

    def _load_failure(self, code: int | None) -> CouncilError:
        lines = [line for line in self._log if " E " in line or "ASSERT" in line or "error" in line.lower()]
        reason = "; ".join(dict.fromkeys(_LOG_PREFIX.sub("", line) for line in lines[:3]))
        reason = reason.replace(str(self.path), self.path.name) or f"its process ended with code {code}"
        if code == -9 or _NO_MEMORY.search("\n".join(self._log)):
            return OutOfMemoryError(
                f"{self.path.name} does not fit into the memory of this node ({reason}); lower "
                "OLLAMA_NUM_PARALLEL or COUNCIL_NODE_CONTEXT, or use a smaller model",
                model=self.model,
            )
        return EngineFailedError(
            f"{self.path.name} cannot be loaded: {reason}. If the file is damaged or incomplete, delete it "
            "and fetch it again with `council models get`",
            model=self.model,
        )

    async def _keep_log(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            self._log.append(line)
            log.debug("llama.cpp", model=self.model, line=line)

    async def settle(self) -> None:
        """After a broken connection: wait until a process that died is known to be dead (at most 1 s)."""
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_S):
                    await self._process.wait()

    async def stop(self) -> None:
        """End the process: first by closing its input, then by force. Safe to call again."""
        process, readers = self._process, self._readers
        client = self.__dict__.pop("client", None)
        try:
            if process is not None and process.returncode is None:
                assert process.stdin is not None
                process.stdin.close()
                try:
                    async with asyncio.timeout(_STOP_S):
                        await process.wait()
                finally:
                    if process.returncode is None:
                        process.kill()
        except TimeoutError:
            assert process is not None
            log.warning("a llama.cpp process did not stop and was killed", model=self.model, pid=process.pid)
        finally:
            if client is not None:
                await client.aclose()
            if process is not None:
                await process.wait()
            await asyncio.gather(*readers)


def _environment() -> dict[str, str]:
    """Our environment, with the packages of this process findable whatever the working directory is."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths), "GGML_NO_BACKTRACE": "1"}


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue  # longer than the reader's buffer, which it has dropped
        if not line:
            return
        yield line.decode("utf-8", "replace").rstrip()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(4096):
        pass
