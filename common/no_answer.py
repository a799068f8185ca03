"""Why nobody answered, in words for a person: pure, of the errors of every client that is used here."""

from __future__ import annotations

import errno
import socket

_NO_WAY = frozenset(
    getattr(errno, name)
    for name in ("EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN", "WSAEHOSTUNREACH", "WSAENETUNREACH")
    if hasattr(errno, name)
)


def why_no_answer(error: BaseException) -> str:
    """What a failed connection says of the other end.

    Clients wrap the system's error, and some name it wrongly (httpx over aiohttp calls a refused connection a
    time-out), so the whole chain is looked at.
    """
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or one.__context__
    if any(isinstance(one, socket.gaierror) for one in chain):
        return "no machine of that name is known"
    if any(isinstance(one, ConnectionRefusedError) for one in chain):
        return "nothing listens there"
    if any(isinstance(one, OSError) and one.errno in _NO_WAY for one in chain):
        return "no such machine is on the network now"
    if any(isinstance(one, TimeoutError) for one in chain):
        return "no answer in time: off, asleep, or behind a firewall"
    if any(isinstance(one, ConnectionError) for one in chain):
        return "the connection was cut"
    return type(chain[-1]).__name__
