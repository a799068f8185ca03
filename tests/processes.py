"""Master and nodes as real processes for the service tests: started on free ports, ended by pid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import httpx

from tests import zygote

ROOT = Path(__file__).resolve().parents[1]
READY_S = 60.0


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings of the person who runs the tests."""
    ours = ("COUNCIL_", "OLLAMA_", "BG_", "GENERATION_TIMEOUT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, **(extra or {})}


class ForkedProcess:
    """A program of the zygote, with what the tests use of `asyncio.subprocess.Process`."""

    def __init__(self, forked: zygote.Forked, stdin: IO[bytes], stdout: asyncio.StreamReader) -> None:
        self.pid = forked.pid
        self.stdout = stdout
        self._stdin = stdin
        self._transports: list[asyncio.ReadTransport] = []
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(
        cls, module: str, arguments: Sequence[str], *, env: Mapping[str, str], stderr: IO[bytes]
    ) -> ForkedProcess:
        loop = asyncio.get_running_loop()
        (its_stdin, stdin), (stdout, its_stdout) = os.pipe(), os.pipe()
        try:
            forked = zygote.fork(
                module, arguments, streams=(its_stdin, its_stdout, stderr.fileno()), env=env, cwd=ROOT
            )
        finally:
            os.close(its_stdin)
            os.close(its_stdout)
        reader = asyncio.StreamReader()
        process = cls(forked, _file(stdin, "wb"), reader)
        for descriptor, protocol in (
            (stdout, asyncio.StreamReaderProtocol(reader)),
            (forked.status, _ExitCode(process._end)),
        ):
            transport, _ = await loop.connect_read_pipe(partial(_itself, protocol), _file(descriptor, "rb"))
            process._transports.append(transport)
        return process

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        if not self._ended.done():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _end(self, code: int) -> None:
        self._stdin.close()
        for transport in self._transports:
            transport.close()
        if not self._ended.done():
            self._ended.set_result(code)


class _ExitCode(asyncio.Protocol):
    """Reads the one line of a status pipe. A zygote that has gone counts as a kill."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._line = b""

    def data_received(self, data: bytes) -> None:
        self._line += data

    def connection_lost(self, _reason: Exception | None) -> None:
        self._tell(int(self._line or -signal.SIGKILL))


def _file(descriptor: int, mode: str) -> IO[bytes]:
    return os.fdopen(descriptor, mode, buffering=0)


def _itself(protocol: asyncio.Protocol) -> asyncio.Protocol:
    return protocol


@dataclass(slots=True)
class Program:
    """A running program of ours. `log` is its standard error."""

    process: asyncio.subprocess.Process | ForkedProcess
    url: str
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()

    def terminate(self) -> None:
        self.process.terminate()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def wait(self, within_s: float = 30.0) -> int:
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def stop(self) -> int:
        """End it in order; by force when that takes too long."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
            try:
                await self.wait(30.0)
            except TimeoutError:
                self.process.kill()
        return await self.process.wait()


async def start(
    module: str, *arguments: str, data_dir: Path, env: Mapping[str, str] | None = None
) -> Program:
    """What `python -m module` starts, once it has told its address. Raises with its log when it ends instead.

    Forked where that can be done, for that is quicker. It says and looks for nothing on the LAN unless
    `env` asks for it.
    """
    settings = {"COUNCIL_DISCOVERY": "false", **(env or {})}
    await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}-{module}.log"
    flags = ("--data-dir", str(data_dir), "--exit-with-parent", *arguments)
    process: asyncio.subprocess.Process | ForkedProcess
    with log.open("ab") as stderr:
        if zygote.AVAILABLE:
            process = await ForkedProcess.start(module, flags, env=clean_environment(settings), stderr=stderr)
        else:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *flags),
                cwd=ROOT,
                env=clean_environment(settings),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
            )
    assert process.stdout is not None
    async with asyncio.timeout(READY_S):
        line = await process.stdout.readline()
    if not line:
        code = await process.wait()
        raise RuntimeError(f"{module} ended with {code}: {log.read_text(errors='replace')[-3000:]}")
    return Program(process, json.loads(line)["url"], log)


@asynccontextmanager
async def node(
    data_dir: Path,
    *arguments: str,
    name: str,
    ollama: str | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Program]:
    """A worker node; before the stand-in at `ollama`, or with the embedded engine."""
    engine = {"OLLAMA_BASE_URL": ollama, "COUNCIL_NODE_ENGINE": "ollama"} if ollama else {}
    engine = engine or {"COUNCIL_NODE_ENGINE": "embedded"}
    program = await start(
        "worker_node",
        "--port",
        "0",
        "--name",
        name,
        *arguments,
        data_dir=data_dir,
        env={**engine, **(env or {})},
    )
    try:
        yield program
    finally:
        await program.stop()


async def start_master(
    data_dir: Path,
    *arguments: str,
    nodes: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Program:
    """A master that knows nodes by name → URL, with a quick heartbeat."""
    listed = ",".join(f"{name}={url}" for name, url in (nodes or {}).items())
    settings = {"COUNCIL_NODES": listed, "COUNCIL_HEARTBEAT_S": "0.2", **(env or {})}
    ports = () if "--port" in arguments else ("--port", "0")
    return await start("master", *ports, *arguments, data_dir=data_dir, env=settings)


@asynccontextmanager
async def master(
    data_dir: Path,
    *arguments: str,
    nodes: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Program]:
    program = await start_master(data_dir, *arguments, nodes=nodes, env=env)
    try:
        yield program
    finally:
        await program.stop()


@asynccontextmanager
async def client(program: Program, *, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(
        base_url=program.url, timeout=60.0, trust_env=False, headers=headers
    ) as found:
        yield found
