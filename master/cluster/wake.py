"""Waking a sleeping PC: the magic packet of Wake-on-LAN, by UDP broadcast.

The packet is six bytes of 255 and then the network card's address 16 times (AMD, "Magic Packet Technology",
1995). Nothing answers it: whether the PC woke shows when its node does.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from common.errors import InvalidRequestError, NodeUnreachableError, SettingsError

PORT = 9  # `discard`: any would do, this one is what cards and routers expect
_COPIES = 3  # a broadcast over Wi-Fi is lost now and then
_EVERYBODY = "255.255.255.255"
_MAC = re.compile(r"[0-9A-F]{2}(?:([:-]))[0-9A-F]{2}(?:\1[0-9A-F]{2}){4}|[0-9A-F]{12}")


def check_mac(text: str) -> str:
    """A network card's address as `AA:BB:CC:DD:EE:FF`. Raises `InvalidRequestError`."""
    folded = text.strip().upper()
    digits = re.sub(r"[:-]", "", folded)
    if not _MAC.fullmatch(folded) or int(digits, 16) == 0 or int(digits[:2], 16) & 1:
        raise InvalidRequestError(f"{text!r} is no network card's address; one looks like AA:BB:CC:DD:EE:FF")
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def parse_settings(entries: Iterable[str]) -> dict[str, str]:
    """`NAME=AA:BB:CC:DD:EE:FF` as `COUNCIL_WAKE` lists them: address by name. Raises `SettingsError`."""
    found: dict[str, str] = {}
    for entry in entries:
        name, separator, mac = entry.partition("=")
        try:
            if not separator or not name.strip():
                raise InvalidRequestError(f"{entry!r} is not NAME=AA:BB:CC:DD:EE:FF")
            found[name.strip()] = check_mac(mac)
        except InvalidRequestError as error:
            raise SettingsError(f"COUNCIL_WAKE: {error.detail}") from error
    return found


def check_settings(entries: Iterable[str], address: str | None) -> None:
    """Tell a mistake when the master starts, and not when a PC is to be woken. Raises `SettingsError`."""
    parse_settings(entries)
    if address is not None:
        parse_address(address)


def magic_packet(mac: str) -> bytes:
    """The 102 bytes that wake the card of that address. Raises `InvalidRequestError`."""
    return b"\xff" * 6 + bytes.fromhex(check_mac(mac).replace(":", "")) * 16


async def wake(mac: str, address: str | None = None) -> None:
    """Send the packet to `address` (`HOST` or `HOST:PORT`), else to everybody on each network here.

    Raises `NodeUnreachableError` when it could be sent nowhere.
    """
    packet = magic_packet(mac)
    await asyncio.to_thread(_send, packet, address)


def _send(packet: bytes, address: str | None) -> None:
    targets = [parse_address(address)] if address else [(host, PORT) for host in _broadcasts()]
    sent, failures = 0, []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for target in targets:
            try:
                for _ in range(_COPIES):
                    sender.sendto(packet, target)
                sent += 1
            except OSError as error:  # no way there: a network that is down
                failures.append(f"{target[0]}: {error.strerror or error}")
    if not sent:
        raise NodeUnreachableError(f"the wake-up packet could not be sent ({'; '.join(failures)})")


def _broadcasts() -> list[str]:
    """Everybody's address of each network: the general one reaches but the first on some systems."""
    import psutil

    found = {
        one.broadcast
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET and one.broadcast
    }
    return [*sorted(found), _EVERYBODY]


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST` or `HOST:PORT` (`COUNCIL_WAKE_ADDRESS`). Raises `SettingsError`."""
    host, _, port = address.partition(":")
    if not host or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise SettingsError(f"COUNCIL_WAKE_ADDRESS: {address!r} is not HOST or HOST:PORT")
    return host, int(port or PORT)


async def learned_mac(url: str, system: Mapping[str, Any]) -> str | None:
    """The address of the card that a node is reached by, from what its `/health/system` tells."""
    cards = [card for card in system.get("network") or [] if isinstance(card, dict)]
    macs = {card.get("address"): card.get("mac") for card in cards}
    host = urlsplit(url).hostname
    if not macs or host is None:
        return None
    hosts = {host}
    if host not in macs:
        with contextlib.suppress(OSError):
            infos = await asyncio.get_running_loop().getaddrinfo(host, None)
            hosts = {str(info[4][0]) for info in infos}
    for mac in (macs.get(one) for one in hosts):
        with contextlib.suppress(InvalidRequestError):
            if isinstance(mac, str):
                return check_mac(mac)
    return None
