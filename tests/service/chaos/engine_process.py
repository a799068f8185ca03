"""A stand-in Ollama in a process of its own that dies, freezes and comes back at the same address."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from tests.service.chaos.fleet import UNBOUNDED, lasting_port
from tests.standin import StandInModel
from tests.standin.journal import Counters
from tests.standin.process import StandInProcess


class EngineProcess:
    """Its counters begin anew with each life."""

    def __init__(self, models: Sequence[StandInModel]) -> None:
        told = [
            {"name": one.name, "token_ms": one.token_ms, "resident": True, "size": one.size} for one in models
        ]
        self._config = {"models": told, "slots": UNBOUNDED, "max_loaded": 16}
        self._port = lasting_port()
        self._life: StandInProcess | None = None
        self._frozen = False

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def counters(self) -> Counters:
        assert self._life is not None
        return Counters(**self._life.counters())

    @property
    def is_well(self) -> bool:
        return self._life is not None and not self._frozen

    async def until(self, predicate: Callable[[Any], object], timeout_s: float = 30.0) -> None:
        async with asyncio.timeout(timeout_s):
            while True:
                if await asyncio.to_thread(predicate, self):
                    return
                await asyncio.sleep(0.1)

    async def start(self) -> None:
        life = StandInProcess(self._config, port=self._port)
        await asyncio.to_thread(life.__enter__)
        self._life = life

    async def kill(self) -> None:
        life, self._life, self._frozen = self._life, None, False
        if life is not None:
            await asyncio.to_thread(life.kill)
            life.__exit__(None, None, None)

    async def stop(self) -> int | None:
        life, self._life = self._life, None
        if life is None:
            return None
        self._signal(life, signal.SIGCONT)
        self._frozen = False
        await asyncio.to_thread(life.__exit__, None, None, None)
        return life.returncode

    def freeze(self) -> None:
        assert self._life is not None
        self._signal(self._life, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        if self._life is not None:
            self._signal(self._life, signal.SIGCONT)
        self._frozen = False

    async def __aenter__(self) -> EngineProcess:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @staticmethod
    def _signal(life: StandInProcess, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(life.pid, number)
