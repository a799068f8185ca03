"""The addresses under which other machines reach this one."""

from __future__ import annotations

import socket

# Packets to this address (TEST-NET-1) go nowhere; none is sent, the system only chooses a route for it.
_SOMEWHERE = ("192.0.2.1", 9)


def own_addresses() -> list[str]:
    """Every IP address of this machine, without zones."""
    import psutil

    found = ["127.0.0.1", "::1"]
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                found.append(one.address.split("%")[0])
    return list(dict.fromkeys(found))


def primary_address() -> str:
    """The address of the interface that leads to the network; 127.0.0.1 when there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SOMEWHERE)
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def url_for_others(scheme: str, host: str, port: int) -> str:
    """The address of a server here that listens on `host`, as other machines type it."""
    if host in ("0.0.0.0", "::", ""):
        host = primary_address()
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
