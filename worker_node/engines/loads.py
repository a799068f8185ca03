"""Loads that outlive their callers: an engine aborts a load whose client hangs up.

One load at a time per engine, as the engines do it themselves, and one for all who want the same model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class Loads:
    """The load tasks of one engine, owned until they end or `stop` is called."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def run(self, model: str, load: Callable[[], Awaitable[None]]) -> float:
        """Wait for the load of `model`, starting it if nobody did. Milliseconds that this caller waited.

        Cancelling the caller leaves the load running.
        """
        began = time.perf_counter()
        task = self._tasks.get(model)
        if task is None:
            task = asyncio.create_task(self._in_turn(load), name=f"load {model}")
            self._tasks[model] = task
            task.add_done_callback(lambda done: self._ended(model, done))
        await asyncio.shield(task)
        return round((time.perf_counter() - began) * 1000, 3)

    async def _in_turn(self, load: Callable[[], Awaitable[None]]) -> None:
        async with self._one_at_a_time:
            await load()

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
