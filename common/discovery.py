"""Finding each other on the LAN by mDNS. Finding is not trusting: anybody can announce anything.

What is found is shown to people, and tried with a token whose fingerprint decides. A program that serves its
own machine only never announces itself; a node that no master knows looks once. Imported late: zeroconf takes
memory.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from common.addresses import own_addresses
from common.logs import get_logger
from common.security import is_loopback

Role = Literal["master", "node"]
SERVICE = "_lan-council._tcp.local."
LOOK_S = 3.0
_ASK_S = 2.0
_MOST_FOUND = 200
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A program that said it is there. Every field is its own claim; `fingerprint` of its certificate or, for
    a master, of its authority.
    """

    role: str
    name: str
    url: str
    fingerprint: str | None


async def stay_announced(*, role: Role, name: str, host: str, port: int, fingerprint: str | None) -> None:
    """Tell the LAN that a program is here, until cancelled. Without multicast it gives up with one line.

    `host`: the address that is listened on; `fingerprint` is `None` for a program that speaks plain HTTP.
    """
    addresses = _announced(host)
    if not addresses:
        return
    claims = {"role": role, "name": name, "tls": "1" if fingerprint else "0", "fp": fingerprint or ""}
    info = AsyncServiceInfo(
        SERVICE,
        f"{_label(role, name)}.{SERVICE}",
        port=port,
        properties=claims,
        server=f"{_label(role, socket.gethostname())}.local.",
        parsed_addresses=addresses,
    )
    try:
        async with _zeroconf() as zeroconf:
            await (await zeroconf.async_register_service(info, allow_name_change=True))
            try:
                await asyncio.Event().wait()
            finally:
                await (await zeroconf.async_unregister_service(info))
    except (OSError, ZeroconfError) as error:
        _log.warning("not announced on the LAN", reason=str(error) or type(error).__name__)


async def look(role: Role, *, within_s: float = LOOK_S) -> list[Found]:
    """Every program of that role that answers within the time, by name. Empty where multicast fails."""
    names: set[str] = set()

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        del zeroconf, service_type
        if state_change is not ServiceStateChange.Removed and len(names) < _MOST_FOUND:
            names.add(name)

    try:
        async with _zeroconf() as zeroconf:
            browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[changed])
            try:
                await asyncio.sleep(within_s)
                answers = await asyncio.gather(*[_ask(zeroconf, name) for name in sorted(names)])
            finally:
                await browser.async_cancel()
    except (OSError, ZeroconfError) as error:
        _log.warning("cannot look on the LAN", reason=str(error) or type(error).__name__)
        return []
    return sorted((one for one in answers if one and one.role == role), key=lambda one: (one.name, one.url))


async def _ask(zeroconf: AsyncZeroconf, name: str) -> Found | None:
    info = AsyncServiceInfo(SERVICE, name)
    if not await info.async_request(zeroconf.zeroconf, _ASK_S * 1000) or info.port is None:
        return None
    addresses = info.parsed_addresses(IPVersion.V4Only) or info.parsed_addresses()
    if not addresses:
        return None
    told = {
        key.decode("utf-8", "replace"): (value or b"").decode("utf-8", "replace")
        for key, value in info.properties.items()
    }
    host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    scheme = "https" if told.get("tls") == "1" else "http"
    return Found(
        told.get("role", ""), told.get("name", ""), f"{scheme}://{host}:{info.port}", told.get("fp") or None
    )


@asynccontextmanager
async def _zeroconf() -> AsyncIterator[AsyncZeroconf]:
    zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
    try:
        yield zeroconf
    finally:
        await zeroconf.async_close()


def _announced(host: str) -> list[str]:
    """The IPv4 addresses at which a program that listens on `host` is reached from other machines."""
    if host not in ("0.0.0.0", "::", ""):
        return [host] if ":" not in host and not is_loopback(host) and host[:1].isdigit() else []
    return [one for one in own_addresses() if ":" not in one and not is_loopback(one)]


def _label(role: str, name: str) -> str:
    """One label of a DNS name, at most 63 bytes."""
    plain = "".join(char if char.isalnum() and char.isascii() else "-" for char in name)
    return f"{role}-{plain}"[:63].rstrip("-")
