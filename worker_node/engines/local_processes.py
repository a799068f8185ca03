"""Which processes of this machine serve an engine's address. Blocking: ask in a thread."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.security import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_AGAIN_S = 10.0  # looking through all processes takes milliseconds for each hundred of them


class LocalProcesses:
    """The process that listens on a loopback URL, and its children. Nothing for addresses elsewhere."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._local = is_loopback(parts.hostname or "")
        self._found: list[int] = []
        self._found_at = float("-inf")
        self._turn = threading.Lock()

    def ids(self) -> list[int]:
        """Process ids, at most ten seconds old; empty where they cannot be known."""
        if not self._local:
            return []
        # Who asks meanwhile hears the same: several looks at once would take as many times longer.
        with self._turn:
            if time.monotonic() - self._found_at > _LOOK_AGAIN_S:
                self._found = _listening_on(self._port)
                self._found_at = time.monotonic()
            return list(self._found)


def _listening_on(port: int) -> list[int]:
    # Late: an idle node that nobody asks needs no psutil.
    import psutil

    try:
        for pid, one in _connections():
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port:
                return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except (psutil.Error, OSError):
        pass  # gone meanwhile, or not ours to see
    return []


def _connections() -> Iterator[tuple[int, Any]]:
    """Every TCP connection whose process is known, with its id."""
    import psutil

    if sys.platform != "darwin":
        # The table of the whole machine, once: to ask each process would read it anew for each of them.
        for one in psutil.net_connections(kind="tcp"):
            if one.pid is not None:
                yield one.pid, one
        return
    for process in psutil.process_iter():  # that table is for root alone there, and each has its own
        try:
            yield from ((process.pid, one) for one in process.net_connections(kind="tcp"))
        except (psutil.Error, OSError):
            continue  # another user's process, or gone meanwhile
