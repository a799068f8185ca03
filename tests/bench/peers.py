"""The peers of the benches, as real processes on loopback: HAProxy and the LiteLLM proxy.

Both stand before the same engines as our master. Where one is not installed its rows are left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests import processes

_LISTENING_S = 20.0
_LITELLM_READY_S = 90.0  # it takes 7 s to import on a quiet machine
_VENV = processes.ROOT / ".venv-peers"
_HAPROXY = """
global
    nbthread 1
    maxconn 1000
defaults
    mode http
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout queue 300s
    timeout client 300s
    timeout server 300s
frontend calls
    bind 127.0.0.1:{port}
    default_backend engines
backend engines
    balance leastconn
{servers}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy that runs: where it answers, in whose words, and its processes."""

    name: str
    url: str
    dialect: str
    pids: tuple[int, ...]
    headers: Mapping[str, str] = field(default_factory=dict)


def missing() -> dict[str, str]:
    """Peers that are not installed, with the command that installs each."""
    found: dict[str, str] = {}
    if not shutil.which("haproxy"):
        found["HAProxy"] = "apt-get install haproxy"
    if _litellm_program() is None:
        found["LiteLLM"] = "make peers"
    return found


def versions() -> dict[str, str]:
    """Of those that are installed."""
    found: dict[str, str] = {}
    if shutil.which("haproxy"):
        said = subprocess.run(
            ["haproxy", "-v"], check=False, capture_output=True, text=True, timeout=10
        ).stdout
        found["HAProxy"] = next((word for word in said.split() if word[:1].isdigit()), "")
    for folder in _VENV.glob("**/site-packages/litellm-*.dist-info"):
        found["LiteLLM"] = folder.name.removeprefix("litellm-").removesuffix(".dist-info")
    return found


def install_haproxy() -> None:
    """Where that is possible without asking anybody: as root on a machine that has apt-get."""
    apt_get = shutil.which("apt-get")
    if apt_get is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "haproxy"]):
        subprocess.run(
            [apt_get, *command],
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )


@asynccontextmanager
async def haproxy(folder: Path, engines: Sequence[str], slots: int) -> AsyncIterator[Peer]:
    """Least connections, at most `slots` at a time per engine; the others wait in its queue."""
    port = free_port()
    servers = "\n".join(
        f"    server e{number} {url.removeprefix('http://')} maxconn {slots}"
        for number, url in enumerate(engines)
    )
    config = folder / f"haproxy-{port}.cfg"
    text = _HAPROXY.format(port=port, servers=servers)
    await asyncio.to_thread(config.write_text, text, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        "haproxy", "-db", "-q", "-f", str(config), stdin=asyncio.subprocess.DEVNULL
    )
    try:
        await until_listening(port, process)
        yield Peer("HAProxy", f"http://127.0.0.1:{port}/api/chat", "ollama", (process.pid,))
    finally:
        await end(process)


@asynccontextmanager
async def litellm(
    folder: Path, engines: Sequence[str], models: Sequence[str], *, context: int, routing: str = "least-busy"
) -> AsyncIterator[Peer]:
    """One deployment per model and engine, with one worker process, no database and no telemetry."""
    program = _litellm_program()
    if program is None:
        raise RuntimeError("LiteLLM is not installed: make peers")
    port, key = free_port(), f"sk-{secrets.token_hex(32)}"
    config = folder / f"litellm-{port}.yaml"
    # JSON is YAML.
    written = {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {"model": f"ollama_chat/{model}", "api_base": url, "num_ctx": context},
            }
            for model in models
            for url in engines
        ],
        "router_settings": {"routing_strategy": routing, "num_retries": 0},
        "litellm_settings": {"telemetry": False, "request_timeout": 300},
    }
    await asyncio.to_thread(config.write_text, json.dumps(written), encoding="utf-8")
    ours = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": key,
        "NO_PROXY": "127.0.0.1",
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    log = folder / f"litellm-{port}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            cwd=folder,
            env={**environment, **ours},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await _until_alive(f"http://127.0.0.1:{port}/health/liveliness", process, log)
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        yield Peer("LiteLLM", url, "openai", (process.pid,), {"authorization": f"Bearer {key}"})
    finally:
        await end(process)


def _litellm_program() -> str | None:
    return shutil.which("litellm", path=str(_VENV / ("Scripts" if sys.platform == "win32" else "bin")))


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def end(process: asyncio.subprocess.Process) -> None:
    """End it in order; by force when that takes too long."""
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(10.0):
                await process.wait()
        except TimeoutError:
            process.kill()
    await process.wait()


async def until_listening(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until somebody answers there. Raises `OSError` when the process has ended, or takes too long."""
    ends = time.monotonic() + _LISTENING_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None or time.monotonic() > ends:
                raise
            await asyncio.sleep(0.05)
            continue
        writer.close()
        await writer.wait_closed()
        return


async def _until_alive(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    ends = time.monotonic() + _LITELLM_READY_S
    async with aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            if process.returncode is not None or time.monotonic() > ends:
                said = await asyncio.to_thread(log.read_text, errors="replace")
                raise RuntimeError(f"LiteLLM does not answer: {said[-1500:]}")
            await asyncio.sleep(0.2)
