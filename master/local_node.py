"""The local node of `council up`: a `python -m worker_node` child, started, named and restarted.

The only place where the master reaches the worker node's program, and it does so by process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from common.logs import get_logger

_log = get_logger(__name__)
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 35.0
_RESTART_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_S = 60.0


class LocalNode:
    """One child process, kept alive. `on_ready(url)` is called after each start of it."""

    def __init__(self, *, name: str, port: int, data_dir: Path, on_ready: Callable[[str], None]) -> None:
        self._name = name
        self._data_dir = data_dir
        self._on_ready = on_ready
        self._process: asyncio.subprocess.Process | None = None
        self._port = port if _is_free(port) else 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        keeper = asyncio.create_task(self._keep(), name="local node")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self._stop()

    async def _keep(self) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                code = await self._run_once()
                _log.warning("local node ended", exit_code=code)
            except (OSError, TimeoutError, ValueError) as error:
                _log.warning("local node did not start", reason=str(error) or type(error).__name__)
                await self._stop()
            failures = 0 if time.monotonic() - started > _STEADY_S else failures + 1
            await asyncio.sleep(_RESTART_PAUSES_S[min(failures, len(_RESTART_PAUSES_S) - 1)])

    async def _run_once(self) -> int:
        """Start the child, wait until it is ready, tell its address, and wait for its end."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # never a folder of that name where the person happens to stand
            "-m",
            "worker_node",
            "--exit-with-parent",
            "--name",
            self._name,
            "--host",
            "127.0.0.1",
            "--port",
            str(self._port),
            "--data-dir",
            str(self._data_dir),
            "--join",
            "none",  # the folder may hold what this machine is in another cluster
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._process = process
        if process.stdout is None:
            raise AssertionError("the child's standard output is a pipe")
        async with asyncio.timeout(READY_TIMEOUT_S):
            line = await process.stdout.readline()
        if not line:
            return await process.wait()
        ready = json.loads(line)
        self._port = int(ready["url"].rsplit(":", 1)[-1])  # a restarted node keeps its address
        self._on_ready(ready["url"])
        while await process.stdout.read(65536):
            continue
        return await process.wait()

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                if process.stdin is not None:
                    process.stdin.close()  # the child watches it and stops in order
            else:
                process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _is_free(port: int) -> bool:
    """Whether nobody listens there: a node that somebody else runs keeps its port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) != 0
