"""Where nodes are: those that joined tell it themselves, and one of them may be nowhere for a while. Pure.

Addresses are given to PCs for a time. When another one turns up at the address of a node that sleeps, the
node stays a member without an address, until it wakes and tells where it is.
"""

from __future__ import annotations

from common.tls import node_name

NODE_KEY = "lcn"
"""The prefix of the keys that the master gives to nodes which join."""
_NOWHERE = ".invalid"  # a domain in which nobody ever is (RFC 6761)
_PORT = 8001


def tells_its_address(key: str | None, fingerprint: str | None) -> bool:
    """Whether a node joined, and renews its address; the others are where a person said that they are."""
    return fingerprint is None and (key or "").startswith(f"{NODE_KEY}_")


def nowhere(url: str, name: str) -> str:
    """What stands for the address of a node that has lost `url`: another one for each name."""
    return f"{url.partition('://')[0]}://{node_name(name)}{_NOWHERE}:{_PORT}"


def is_nowhere(url: str) -> bool:
    return url.endswith(f"{_NOWHERE}:{_PORT}")
