"""Wrong keys, counted by address: a guesser waits longer and longer, and nobody else does.

Pure: the time goes in, seconds to wait come out. Bounded, whatever an attacker sends.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from dataclasses import dataclass, field

FREE_ATTEMPTS = 5
LONGEST_WAIT_S = 60.0
FORGET_AFTER_S = 900.0
MAX_PEERS = 4096
MAX_PROVEN = 4096
_REMEMBERED = 4


@dataclass(slots=True)
class _Record:
    """What one address got wrong. `wrong`: digests of its last wrong keys."""

    count: int = 0
    last: float = 0.0
    until: float = 0.0
    wrong: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))


class Attempts:
    """Five wrong keys are free, then the address waits 1, 2, 4 … 60 seconds before it may try again.

    The same wrong key again is no new guess: an open page with a revoked key must not lock its person out. A
    key that was right from an address is never made to wait there, so that a guesser behind the same address
    locks nobody out either. A right key forgives no wrong ones: one that is known would reset the count.
    """

    def __init__(self) -> None:
        self._failed: OrderedDict[str, _Record] = OrderedDict()
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, peer: str, digest: str, now: float) -> float:
        """Seconds before this address may try this key; 0: now."""
        if (peer, digest) in self._proven:
            return 0.0
        record = self._failed.get(peer)
        return max(0.0, record.until - now) if record is not None else 0.0

    def failed(self, peer: str, digest: str, now: float) -> None:
        """A key was wrong."""
        self._proven.pop((peer, digest), None)
        record = self._failed.pop(peer, None)
        if record is None or now - record.last > FORGET_AFTER_S:
            record = _Record()
        self._failed[peer] = record
        if len(self._failed) > MAX_PEERS:
            self._failed.popitem(last=False)
        if digest in record.wrong:
            return
        record.wrong.append(digest)
        record.count += 1
        record.last = now
        if record.count >= FREE_ATTEMPTS:
            doublings = min(record.count - FREE_ATTEMPTS, 16)
            record.until = now + min(LONGEST_WAIT_S, 2.0**doublings)

    def passed(self, peer: str, digest: str) -> None:
        """A key was right."""
        self._proven[(peer, digest)] = None
        self._proven.move_to_end((peer, digest))
        if len(self._proven) > MAX_PROVEN:
            self._proven.popitem(last=False)


def peer_of(host: str | None) -> str:
    """The name under which an address is counted: of IPv6 the /64, which one machine has whole."""
    try:
        address = ipaddress.ip_address((host or "").split("%")[0])
    except ValueError:
        return host or "unknown"
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address.ipv4_mapped or address) if address.version == 6 else str(address)
