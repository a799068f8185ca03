"""Stores what machines and engines take, by the minute, for a day; samples this machine as well."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from common.errors import CouncilError
from common.host import system_health
from common.logs import get_logger
from master.cluster.history import EVERY_S
from master.cluster.node import Node
from master.cluster.registry import Registry
from master.cluster.usage_minutes import KEPT_S, UsageMinute, UsageMinutes
from master.metrics import USE_CPU, USE_MEMORY

_log = get_logger(__name__)


class UsageStore(Protocol):
    """Where minutes are kept."""

    @property
    def keep(self) -> Callable[[Sequence[UsageMinute]], Awaitable[None]]: ...

    @property
    def prune(self) -> Callable[[float], Awaitable[None]]: ...


class UsageKeeper:
    """`minutes.latest` is the use of now, by node and part."""

    def __init__(self, registry: Registry, store: UsageStore, *, data_dir: Path) -> None:
        self.minutes = UsageMinutes()
        self._registry = registry
        self._store = store
        self._data_dir = data_dir
        # No node can be named so: other masters on the same database have machines of their own.
        self._here = f"master on {socket.gethostname()}"[:63]
        registry.system_listeners.append(self._told)

    def now(self) -> dict[str, dict[str, dict[str, float | int | None]]]:
        """What each part of each node takes now, as the API shows it."""
        return {
            node: {
                part: {"cpu_percent": one.cpu_percent, "memory_bytes": one.memory_bytes}
                for part, one in parts.items()
            }
            for node, parts in self.minutes.latest.items()
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sample and store until the end of the block, the unfinished minute as well."""
        task = asyncio.create_task(self._run(), name="keep usage")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._write(unfinished=True)

    def _told(self, node: Node, _at: float, system: dict[str, Any]) -> None:
        if self._registry.nodes.get(node.name) is node:
            self._add(node.name, system, "node")

    def _add(self, name: str, system: dict[str, Any], own: str) -> None:
        self.minutes.add(name, time.time(), system, own=own)
        for part, use in self.minutes.latest[name].items():
            if use.cpu_percent is not None:
                USE_CPU.labels(node=name, part=part).set(use.cpu_percent)
            if use.memory_bytes is not None:
                USE_MEMORY.labels(node=name, part=part).set(use.memory_bytes)

    async def _run(self) -> None:
        while True:
            try:
                self._forget_removed()
                self._add(self._here, await asyncio.to_thread(system_health, self._data_dir), "master")
                await self._write()
            except Exception:
                _log.exception("usage not sampled")
            await asyncio.sleep(EVERY_S)

    def _forget_removed(self) -> None:
        for name in self.minutes.latest.keys() - self._registry.nodes.keys() - {self._here}:
            for part in self.minutes.latest[name]:
                for gauge in (USE_CPU, USE_MEMORY):
                    with contextlib.suppress(KeyError):
                        gauge.remove(name, part)
            self.minutes.forget(name)

    async def _write(self, *, unfinished: bool = False) -> None:
        rows = self.minutes.take(time.time(), unfinished=unfinished)
        if not rows:
            return
        try:
            await self._store.keep(rows)
            await self._store.prune(time.time() - KEPT_S)
        except CouncilError as error:
            self.minutes.untaken(rows)
            _log.warning("usage not kept", code=error.code, detail=error.detail)
