"""The addresses under which other machines reach this one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

UNSPECIFIED = ("0.0.0.0", "::", "")
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


def lan_addresses() -> list[str]:
    """Where other machines may reach this one, the likeliest first; none when it is in no network."""
    import psutil

    up = {name for name, card in psutil.net_if_stats().items() if card.isup}
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if name in up and one.family in (socket.AF_INET, socket.AF_INET6):
                tunnel = one.ptp is not None or one.netmask == "255.255.255.255"
                found.append(CardAddress(name, one.address.split("%")[0], tunnel))
    return likeliest_first(found, routed=_routed_address())


@dataclass(frozen=True, slots=True)
class CardAddress:
    """An address of a network card. `tunnel`: the card leads to one other machine only."""

    card: str
    address: str
    tunnel: bool = False


def likeliest_first(found: Iterable[CardAddress], *, routed: str | None) -> list[str]:
    """The addresses that machines of the same LAN may reach, in the order in which to try them; those of IPv6
    only where there is no other. Pure.

    A LAN need not lead anywhere, and where a VPN is up the route to the rest of the world says nothing of the
    LAN: so first come private addresses of cards, and among these the one that packets leave by (`routed`).
    """
    ranked = []
    for place, one in enumerate(found):
        address = ipaddress.ip_address(one.address)
        if address.is_loopback or (address.version == 6 and address.is_link_local):
            continue
        aside = one.tunnel or one.card.lower().startswith(_ASIDE) or address in _CARRIERS
        rank = (aside, address.is_link_local, not address.is_private)
        ranked.append((rank, one.address != routed, place, one.address))
    ordered = list(dict.fromkeys(address for *_, address in sorted(ranked)))
    return [one for one in ordered if ":" not in one] or ordered


# Cards of virtual machines, containers and VPNs, as Linux, macOS and Windows name them.
_ASIDE = (
    "docker", "br-", "veth", "virbr", "lxc", "lxd", "cni", "podman", "vbox", "virtualbox", "vmnet", "vmware",
    "vethernet", "tun", "tap", "wg", "utun", "ipsec", "ppp", "zt", "zerotier", "tailscale", "nordlynx",
    "proton", "openvpn", "wireguard", "bridge",
)  # fmt: skip
_CARRIERS = ipaddress.ip_network("100.64.0.0/10")  # of carriers, and of VPNs that borrow it


def primary_address() -> str:
    """The likeliest address of this machine in its LAN; 127.0.0.1 when it is in none."""
    return next(iter(lan_addresses()), "127.0.0.1")


def _routed_address() -> str | None:
    """The address that packets to elsewhere leave by; `None` where no route leads there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SOMEWHERE)
            return str(probe.getsockname()[0])
        except OSError:
            return None


def url_for_others(scheme: str, host: str, port: int) -> str:
    """The address of a server here that listens on `host`, as other machines type it."""
    if host in UNSPECIFIED:
        host = primary_address()
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
