"""Who listens on a port of this machine."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listener:
    """What holds a port. `pid` and `program` are None where the system does not tell."""

    port: int
    pid: int | None = None
    program: str | None = None

    def __str__(self) -> str:
        if self.pid is None:
            return "another program"
        return f"process {self.pid}" + (f" ({self.program})" if self.program else "")


def listener_on(host: str, port: int) -> Listener | None:
    """What accepts connections at (host, port), or `None`."""
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host).strip("[]")
    try:
        with socket.create_connection((reach, port), timeout=1.0):
            pass
    except OSError:
        return None
    return _owner(port)


def _owner(port: int) -> Listener:
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    break
                return Listener(port, connection.pid, psutil.Process(connection.pid).name())
    except (psutil.Error, OSError):
        pass  # macOS tells this to root only
    return Listener(port)
