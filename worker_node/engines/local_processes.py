"""Which processes of this machine serve an engine's address. Blocking: ask in a thread."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from common.security import is_loopback

_LOOK_AGAIN_S = 10.0  # looking through all processes takes milliseconds for each hundred of them


class LocalProcesses:
    """The process that listens on a loopback URL, and its children. Nothing for addresses elsewhere."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._local = is_loopback(parts.hostname or "")
        self._found: list[int] = []
        self._found_at = float("-inf")

    def ids(self) -> list[int]:
        """Process ids, at most ten seconds old; empty where they cannot be known."""
        if self._local and time.monotonic() - self._found_at > _LOOK_AGAIN_S:
            self._found = _listening_on(self._port)
            self._found_at = time.monotonic()
        return list(self._found)


def _listening_on(port: int) -> list[int]:
    # Late: an idle node that nobody asks needs no psutil.
    import psutil

    for process in psutil.process_iter():
        try:
            listens = any(
                one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
                for one in process.net_connections(kind="tcp")
            )
            if listens:
                return [process.pid, *(child.pid for child in process.children(recursive=True))]
        except (psutil.Error, OSError):
            continue  # another user's process, or gone meanwhile
    return []
