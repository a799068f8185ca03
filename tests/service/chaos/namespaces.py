"""Several machines in one: network namespaces with a cable from each to the first. Linux, as root.

Every address exists inside the namespaces only, and goes with them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.processes import READY_S, ROOT, clean_environment


def ip(*arguments: str) -> None:
    """Raises `CalledProcessError` with what it said."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


def need_rights() -> None:
    """Skip where this machine cannot make namespaces: that is no server which could be installed."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux and `ip` (apt-get install iproute2)")
    probe = f"lc-probe-{os.getpid()}"
    try:
        ip("netns", "add", probe)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(
            f"no network namespace can be made here (it takes root): {getattr(error, 'stderr', error)}"
        )
    ip("netns", "delete", probe)


@dataclass
class Machine:
    """One namespace. `address` is where the hub reaches it, `hub` where it reaches the hub."""

    space: str
    address: str
    hub: str

    def cut(self) -> None:
        """Pull the cable: nobody is told."""
        ip("-n", self.space, "link", "set", "eth0", "down")

    def mend(self) -> None:
        ip("-n", self.space, "link", "set", "eth0", "up")

    def get(self, address: str) -> None:
        """Another address in the same network, as a new lease brings it."""
        ip("-n", self.space, "address", "flush", "dev", "eth0", "scope", "global")
        ip("-n", self.space, "address", "add", f"{address}/24", "dev", "eth0")
        self.address = address


@dataclass
class Cabling:
    """A hub and the machines around it, and the programs that run there."""

    folder: Path
    hub: str
    machines: dict[str, Machine]
    _running: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def run(
        self, space: str, log: str, *command: str, env: Mapping[str, str] | None = None
    ) -> tuple[asyncio.subprocess.Process, str]:
        """Start `python COMMAND` in a namespace; the process, and the first line it wrote."""
        path = self.folder / f"{log}.log"
        with path.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", space, sys.executable, *command),
                cwd=ROOT,
                env=clean_environment(env),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
            )
        self._running.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = await process.stdout.readline()
        assert line, path.read_text(errors="replace")[-3000:]
        return process, line.decode()

    async def way_to(self, space: str, name: str, port: int) -> str:
        """A Unix socket that leads to a port of that namespace."""
        path = str(self.folder / f"{name}.sock")
        await self.run(
            space, f"relay-{name}", "-m", "tests.service.chaos.relay", path, "127.0.0.1", str(port)
        )
        return path

    async def stop(self) -> None:
        for process in reversed(self._running):
            if process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(15):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()


def _delete(spaces: list[str]) -> None:
    for space in spaces:
        subprocess.run(["ip", "netns", "delete", space], check=False, timeout=20)


@asynccontextmanager
async def cabling(folder: Path, *names: str) -> AsyncIterator[Cabling]:
    """A hub with a cable to each named machine; at the end nothing of it is left."""
    need_rights()
    own = f"lc{os.getpid()}"
    hub = f"{own}-hub"
    made = [hub]
    machines: dict[str, Machine] = {}
    found = Cabling(folder, hub, machines)
    try:
        ip("netns", "add", hub)
        ip("-n", hub, "link", "set", "lo", "up")
        for number, name in enumerate(names, 1):
            space = f"{own}-{name}"
            ip("netns", "add", space)
            made.append(space)
            machines[name] = Machine(space, f"10.83.{number}.2", f"10.83.{number}.1")
            ip(
                *("-n", hub, "link", "add", f"to-{name}", "type", "veth"),
                *("peer", "name", "eth0", "netns", space),
            )
            ip("-n", hub, "address", "add", f"{machines[name].hub}/24", "dev", f"to-{name}")
            ip("-n", space, "address", "add", f"{machines[name].address}/24", "dev", "eth0")
            for where, link in ((hub, f"to-{name}"), (space, "lo"), (space, "eth0")):
                ip("-n", where, "link", "set", link, "up")
        yield found
    finally:
        await found.stop()
        _delete(made)
