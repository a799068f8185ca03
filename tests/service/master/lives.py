"""Lives of one master on one data folder, each ended by SIGKILL at a chosen commit, or in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.processes import ROOT, clean_environment

KILLED = -9
_READY_S = 60.0


@dataclass(slots=True)
class Life:
    """One master process; `commits` are the names of what it wrote, known when it has ended."""

    url: str
    pid: int
    exit_code: int | None = None
    commits: list[str] = field(default_factory=list)


class Nursery:
    """Starts lives one after the other; see `killing_master`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._life: Life | None = None

    async def start(
        self,
        data_dir: Path,
        nodes: Mapping[str, str],
        *,
        kill: tuple[int, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Life:
        """A master that answers, or one that died before it could (its `exit_code` tells)."""
        assert self._process.stdin is not None
        await self.close()
        listed = ",".join(f"{name}={url}" for name, url in nodes.items())
        order = {
            "argv": ["--port", "0", "--data-dir", str(data_dir), "--exit-with-parent"],
            "env": {"COUNCIL_NODES": listed, "COUNCIL_HEARTBEAT_S": "0.1", **(env or {})},
            "log": str(data_dir.parent / f"{data_dir.name}.log"),
            "kill": kill,
        }
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._line()
        self._life = Life("", 0) if "ended" in line else Life(line["url"], line["pid"])
        if "ended" in line:
            self._note_end(line)
        return self._life

    async def ended(self) -> Life:
        """Wait for the end of the life that was started last."""
        assert self._life is not None
        if self._life.exit_code is None:
            self._note_end(await self._line())
        return self._life

    async def stop(self, number: int = signal.SIGTERM) -> Life:
        """End the life that was started last, where it has not ended, and wait for that."""
        assert self._life is not None
        if self._life.exit_code is None:
            os.kill(self._life.pid, number)
        return await self.ended()

    async def close(self) -> None:
        """End what a failed test may have left running."""
        if self._life is not None and self._life.exit_code is None:
            await self.stop(signal.SIGKILL)

    def _note_end(self, line: dict[str, Any]) -> None:
        assert self._life is not None
        self._life.exit_code, self._life.commits = line["ended"], line["commits"]

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(_READY_S):
            line = await self._process.stdout.readline()
        assert line, "the nursery ended"
        read: dict[str, Any] = json.loads(line)
        return read


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.service.master.killing_master",
        cwd=ROOT,
        env=clean_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    found = Nursery(process)
    try:
        yield found
    finally:
        await found.close()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def ask(url: str, body: Mapping[str, Any], *, key: str) -> dict[str, Any] | None:
    """Ask and wait for the end; `None` when the master died over it."""
    async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
        try:
            response = await client.post(
                "/api/council/sessions?wait=true&wait_s=60", json=dict(body), headers={"idempotency-key": key}
            )
        except httpx.TransportError:
            return None
    assert response.status_code == 201, response.text
    session: dict[str, Any] = response.json()
    return session
