"""Ctrl-C as events: the first asks to cancel, the second to quit at once."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, from which no Ctrl-C is lost. On the main thread."""
    return asyncio.run(_woken(work))


async def _woken(work: Coroutine[Any, Any, T]) -> T:
    with _woken_by_signals():
        return await work


@contextmanager
def _woken_by_signals() -> Iterator[None]:
    """Let every signal wake the running loop.

    Python calls a handler when it goes on, and a loop that waits for nothing but its sockets does not: a
    signal that comes between its last look and its sleep, or to another thread, waited for the next event.
    """
    if sys.platform == "win32":  # its loop sees to it by itself
        yield
        return
    loop = asyncio.get_running_loop()
    woken, waking = socket.socketpair()
    with woken, waking:
        for one in (woken, waking):
            one.setblocking(False)
        loop.add_reader(woken, woken.recv, 4096)
        before = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(woken)


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
