"""A master as the LAN sees it: bound to every interface, over TLS, with a key; reached at 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import processes
from tests.processes import Program

KEY = "lc_0123456789abcdef0123456789abcdef"
QUIET = {"COUNCIL_DISCOVERY": "false"}


@dataclass
class LanMaster:
    """A running master, with a client that has the administrator's key and trusts its authority."""

    program: Program
    url: str
    folder: Path
    authority: str
    admin: httpx.AsyncClient = field(init=False)

    @asynccontextmanager
    async def client(self, key: str | None) -> AsyncIterator[httpx.AsyncClient]:
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        context = ssl.create_default_context(cadata=self.authority)
        async with httpx.AsyncClient(
            base_url=self.url, verify=context, headers=headers, trust_env=False, timeout=30
        ) as found:
            yield found

    async def token(self, ttl_s: float = 900) -> str:
        answer = await self.admin.post("/api/cluster/tokens", json={"ttl_s": ttl_s})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    async def create_key(self, name: str, role: str = "person") -> str:
        answer = await self.admin.post("/api/keys", json={"name": name, "role": role})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    async def workers(self) -> dict[str, dict[str, Any]]:
        found = (await self.admin.get("/api/cluster/workers")).json()["workers"]
        return {one["name"]: one for one in found}

    async def until(self, name: str, state: str, within_s: float = 20.0) -> dict[str, Any]:
        """The node once the master sees it so."""
        seen: object = None
        try:
            async with asyncio.timeout(within_s):
                while True:
                    seen = (await self.workers()).get(name)
                    if isinstance(seen, dict) and seen["state"] == state:
                        return seen
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{name} did not become {state}: {seen}") from None


@asynccontextmanager
async def lan_master(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[LanMaster]:
    program = await processes.start_master(
        folder, "--host", "0.0.0.0", *arguments, env={"COUNCIL_KEY": KEY, **QUIET, **(env or {})}
    )
    try:
        url = program.url.replace("0.0.0.0", "127.0.0.1")
        authority = json.loads((folder / "authority.json").read_text())["certificate"]
        master = LanMaster(program, url, folder, authority)
        async with master.client(KEY) as master.admin:
            yield master
    finally:
        await program.stop()


@asynccontextmanager
async def lan_node(
    folder: Path,
    *arguments: str,
    name: str = "pc2",
    ollama: str | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Program]:
    """A node that serves other machines; its URL is the one to reach it at from here."""
    engine = {"OLLAMA_BASE_URL": ollama, "COUNCIL_NODE_ENGINE": "ollama"} if ollama else {}
    async with processes.node(
        folder,
        *arguments,
        name=name,
        env={"COUNCIL_NODE_ENGINE": "embedded", **QUIET, **engine, **(env or {})},
    ) as program:
        yield program


async def refused(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Start a node that has to end by itself with 1; what it said."""
    settings = {"COUNCIL_NODE_ENGINE": "embedded", **QUIET, **(env or {})}
    with pytest.raises(RuntimeError, match="ended with 1") as told:
        await processes.start("worker_node", "--port", "0", *arguments, data_dir=folder, env=settings)
    return str(told.value)
