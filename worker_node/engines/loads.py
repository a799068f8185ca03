"""Loads that outlive their callers: an engine aborts a load whose client hangs up.

One load at a time per engine, as the engines do it themselves, and one for all who want the same model. One
whose answer does not come (the machine sleeps, its cable is out, the engine hangs) must not bar those after
it: the engine is asked whether it is there, and in the end whether the model is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from common.errors import LoadTimeoutError

_LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Patience:
    """After each of two times `look_after_s` a load without an answer is looked after.

    `is_loaded` asks the engine about a model, and raises where the engine does not answer.
    """

    look_after_s: float
    is_loaded: Callable[[str], Awaitable[bool]]


class Loads:
    """The load tasks of one engine, owned until they end or `stop` is called."""

    def __init__(self, patience: Patience | None = None) -> None:
        """Without `patience` a load takes as long as it takes."""
        self._patience = patience
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def run(self, model: str, load: Callable[[], Awaitable[None]]) -> float:
        """Wait for the load of `model`, starting it if nobody did. Milliseconds that this caller waited.

        Cancelling the caller leaves the load running.
        """
        began = time.perf_counter()
        task = self._tasks.get(model)
        if task is None:
            task = asyncio.create_task(self._in_turn(model, load), name=f"load {model}")
            self._tasks[model] = task
            task.add_done_callback(lambda done: self._ended(model, done))
        await asyncio.shield(task)
        return round((time.perf_counter() - began) * 1000, 3)

    async def _in_turn(self, model: str, load: Callable[[], Awaitable[None]]) -> None:
        async with self._one_at_a_time:
            if self._patience is None:
                await load()
            else:
                await self._bounded(model, load, self._patience)

    async def _bounded(self, model: str, load: Callable[[], Awaitable[None]], patience: Patience) -> None:
        task = asyncio.ensure_future(load())
        try:
            loaded = False
            for _ in range(_LOOKS):
                await asyncio.wait((task,), timeout=patience.look_after_s)
                if task.done():
                    return task.result()
                # An old Ollama lists a model that it still loads, and would abort it: the last look counts.
                loaded = await patience.is_loaded(model)
            if not loaded:
                spent_s = _LOOKS * patience.look_after_s
                raise LoadTimeoutError(f"{model} was not loaded after {spent_s:g} s; given up", model=model)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _ended(self, model: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(model, None)
        if not task.cancelled():
            task.exception()  # seen: whoever still waits gets it, and nobody may be left

    async def stop(self) -> None:
        """Give up what still loads."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
