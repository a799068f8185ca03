"""Who may call: loopback or not, by which name, keys, and their comparison in constant time."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from functools import lru_cache
from urllib.parse import urlsplit

# Names that no public name server answers for: another site cannot make them point here.
_LOCAL_SUFFIXES = (".local", ".lan", ".home", ".home.arpa", ".internal", ".localdomain")


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether an address to listen on, or a peer's address, is this machine only."""
    if host in ("localhost", "testclient"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").split("%")[0]).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=64)
def host_name(host: str) -> str:
    """The name or address in a `Host` header, without its port; empty where none can be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_local_name(name: str) -> bool:
    """Whether a name is an address, or one that no other site can have: such a page cannot be another site's
    whose name was made to point here (DNS rebinding).
    """
    if "." not in name or name.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def new_key(prefix: str = "lc") -> str:
    """A key of 256 random bits that looks like what it is."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def is_repetitive(key: str) -> bool:
    """Whether a key that a person made up is guessed sooner than its length says: fewer than six different
    characters, or one part again and again. No measure of how random the others are.
    """
    return len(set(key)) < 6 or key in (key + key)[1:-1]


def keys_match(given: str | None, expected: str | None) -> bool:
    """Compare in constant time. No expected key matches nothing."""
    if given is None or expected is None:
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def digest_of(key: str) -> str:
    """The SHA-256 under which a key is kept and looked up, in hex.

    Keys have 256 random bits, so one round and no salt suffice; and a look-up by digest tells a guesser
    nothing by its time, since a digest cannot be steered towards another.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def bearer(authorization: str | None) -> str | None:
    """The token of an `Authorization: Bearer …` header."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
