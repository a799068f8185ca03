"""Which processes of this machine serve an engine's address. Blocking: call in a thread."""

from __future__ import annotations

from urllib.parse import urlsplit

import psutil

from common.security import is_loopback


def processes_listening_on(base_url: str) -> list[int]:
    """The process that listens on the port of a loopback URL, and its children. Empty where unknown."""
    parts = urlsplit(base_url)
    if not is_loopback(parts.hostname or ""):
        return []
    port = parts.port or (443 if parts.scheme == "https" else 80)
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
