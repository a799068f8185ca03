"""Ctrl-C as events: the first asks to cancel, the second to quit at once."""

from __future__ import annotations

import asyncio
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """Counts Ctrl-C while it is entered. `first` and `second` are set on the running loop.

    `signal.signal` and not the loop's own handler, because Windows has only the former. `also`: further
    signals that count the same, such as SIGTERM for a program that is meant to be stopped.
    """

    def __init__(self, *also: signal.Signals) -> None:
        self._numbers = (signal.SIGINT, *also)
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._previous: list[Any] = []

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._count)

        self._previous = [signal.signal(number, on_signal) for number in self._numbers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in zip(self._numbers, self._previous, strict=True):
            signal.signal(number, previous)

    def _count(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
