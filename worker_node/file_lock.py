"""A lock on a file that the operating system frees when its holder dies, however it dies. Blocking."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

_POLL_S = 0.02


@contextlib.contextmanager
def locked(
    path: Path, *, timeout_s: float | None, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock; `on_wait` is called once where another process has it.

    Raises `TimeoutError` when it is not free within `timeout_s` (`None`: wait for ever), `OSError` where the
    file cannot be opened.
    """
    with path.open("a+b") as file:
        began = time.monotonic()
        waiting = False
        while not _try_lock(file):
            if not waiting:
                waiting = True
                on_wait()
            if timeout_s is not None and time.monotonic() > began + timeout_s:
                raise TimeoutError(f"another process has held {path} for {timeout_s:.0f} s")
            time.sleep(_POLL_S)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
