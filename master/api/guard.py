"""The one place where every route asks for permission: HTTP and WebSocket, before any route is chosen.

On loopback nobody needs a key. Off loopback every path but `/health` and the page's own files needs one, as
`Authorization: Bearer` or as the cookie that `POST /api/login` sets; `permission.needed` says which.
Everywhere the `Host` and the `Origin` of a browser are checked: another site must reach neither the API nor a
socket (DNS rebinding, cross-site requests).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.attempts import Attempts, peer_of
from common.errors import (
    CouncilError,
    ForbiddenError,
    InvalidRequestError,
    PayloadTooLargeError,
    TooManyAttemptsError,
    UnauthorizedError,
)
from common.security import bearer, digest_of, host_name, is_local_name, is_loopback
from master.api.permission import Need, needed
from master.api.problems import problem_response
from master.keyring import KeyRing

COOKIE = "council_key"
_KEY = "lan_council.key"  # in the scope, for what goes on longer than the key may
MAX_BODY_BYTES = 1024 * 1024
_LOOKED_AT = frozenset({b"host", b"origin", b"authorization", b"cookie", b"content-length"})
IMPORT_PATH = "/api/conversation/import"


class Access:
    """Who may call this master, and how often somebody may guess.

    `asks`: a key is asked for; `loopback_only`: it serves this machine only and must be called so.
    """

    def __init__(
        self,
        *,
        host: str,
        insecure_lan: bool,
        cors_origins: list[str],
        max_import_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._max_import_bytes = max_import_bytes
        self.loopback_only = is_loopback(host)
        self.asks = not self.loopback_only and not insecure_lan
        self.origins = frozenset(cors_origins)
        self.names = frozenset(host_name(_netloc(origin)) for origin in cors_origins)
        self._attempts = Attempts()

    def max_body_bytes(self, path: str) -> int:
        return self._max_import_bytes if path == IMPORT_PATH else MAX_BODY_BYTES

    async def admit(self, need: Need, key: str | None, peer: str, keyring: KeyRing) -> None:
        """Return when the key is good for that need.

        Raises `UnauthorizedError` (none, or a wrong one), `ForbiddenError` (somebody else's right) and
        `TooManyAttemptsError` (this address guessed too often).
        """
        if key is None:
            raise UnauthorizedError(_ASK[need])
        digest = digest_of(key)
        wait_s = self._attempts.wait_s(peer, digest, time.monotonic())
        if wait_s > 0:
            raise TooManyAttemptsError(
                f"too many wrong keys came from {peer}; try again in {wait_s:.0f} s", retry_after_s=wait_s
            )
        good, forbidden = await _is_good(need, key, keyring)
        if not good and not forbidden:
            self._attempts.failed(peer, digest, time.monotonic())
            raise UnauthorizedError(_WRONG[need])
        self._attempts.passed(peer, digest)
        if forbidden:
            raise ForbiddenError(_FORBIDDEN[need])


async def _is_good(need: Need, key: str, keyring: KeyRing) -> tuple[bool, bool]:
    """Whether the key meets the need, and whether it is right but of the wrong kind."""
    if need is Need.TOKEN:
        return await keyring.token_lives(key), False
    if need is Need.NODE:
        return keyring.node_of(key) is not None, False
    identity = await keyring.find(key)
    if identity is None:
        return False, False
    allowed = identity.role in _ROLES[need]
    return allowed, not allowed


_ROLES = {
    Need.PERSON: ("person", "admin"),
    Need.SESSION: ("person", "admin", "master"),
    Need.ADMIN: ("admin",),
}
_FORBIDDEN = {
    Need.PERSON: "other masters are let in for one session at a time and for nothing else",
    Need.ADMIN: "only an administrator's key may do that; see `council keys create --admin`",
}
_ASK = {
    Need.PERSON: "send a key as `Authorization: Bearer …`, or log in on the page",
    Need.SESSION: "send a key as `Authorization: Bearer …`, or log in on the page",
    Need.ADMIN: "send an administrator's key as `Authorization: Bearer …`",
    Need.TOKEN: "send the join token as `Authorization: Bearer …`; `council worker token` prints one",
    Need.NODE: "send the node's key as `Authorization: Bearer …`",
}
_WRONG = {
    Need.PERSON: "that key is not known here, or was revoked",
    Need.SESSION: "that key is not known here, or was revoked",
    Need.ADMIN: "that key is not known here, or was revoked",
    Need.TOKEN: "this token is used up, too old or of another master; `council worker token` makes one",
    Need.NODE: "this node is not, or no longer, part of the cluster; it can join with a new token",
}


class Guard:
    """Pure ASGI middleware, outermost but for the logs; costs a few microseconds a request."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        try:
            _check_path(scope["path"])
            self._check_site(scope, headers)
            await self._admit(scope, headers)
            if scope["type"] == "http":
                receive = _limited(headers, receive, self._access.max_body_bytes(scope["path"]))
        except CouncilError as error:
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_site(self, scope: Scope, headers: Mapping[bytes, str]) -> None:
        """The caller means this master, and no other site speaks through its browser."""
        host = headers.get(b"host", "")
        name = host_name(host)
        if self._access.loopback_only and not is_loopback(name):
            raise ForbiddenError(
                f"this master serves its own machine only and was called as {host!r}; use http://127.0.0.1"
            )
        # Where keys are asked for, a rebound name does no harm: its pages have no cookie of ours.
        if host and not name:
            raise InvalidRequestError(f"the request's Host {host!r} is no name and no address")
        is_open = not self._access.loopback_only and not self._access.asks
        if is_open and not is_local_name(name) and name not in self._access.names:
            raise ForbiddenError(
                f"this master was called as {host!r}, which may be another site's name for it; use its IP "
                "address, or add that origin to COUNCIL_CORS_ORIGINS"
            )
        origin = headers.get(b"origin")
        if origin is not None and not self._is_ours(origin, host) and _changes_or_streams(scope):
            raise ForbiddenError(f"pages of {origin} may not call this master; see COUNCIL_CORS_ORIGINS")

    async def _admit(self, scope: Scope, headers: Mapping[bytes, str]) -> None:
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        need = needed(method, scope["path"])
        if need is Need.NOBODY or (method == "OPTIONS" and self._access.origins):
            return
        if not self._access.asks and need in _ROLES:
            return
        key = bearer(headers.get(b"authorization")) or _cookie(headers.get(b"cookie"))
        await self._access.admit(need, key, peer(scope), scope["app"].state.services.keyring)
        scope[_KEY] = key

    def _is_ours(self, origin: str, host: str) -> bool:
        return _netloc(origin) == host or origin in self._access.origins or "*" in self._access.origins


def key_of(scope: Scope) -> str | None:
    """The key that let this caller in; `None` where nobody is asked for one."""
    found: str | None = scope.get(_KEY)
    return found


def peer(scope: Scope) -> str:
    """The address under which a caller's wrong keys are counted."""
    client = scope.get("client")
    return peer_of(client[0] if client else None)


def _check_path(path: str) -> None:
    """A path means here what it says: who passes it on may shorten `a/../b`, and ask for something else."""
    if "/." in path and not {".", ".."}.isdisjoint(path.split("/")):
        raise InvalidRequestError(
            "an address with the parts `.` or `..` is not taken; write the one it means"
        )


def _headers(scope: Scope) -> dict[bytes, str]:
    """Of what is looked at here, the first header of each name."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _LOOKED_AT and name not in found:
            found[name] = value.decode("latin-1")
    return found


def _changes_or_streams(scope: Scope) -> bool:
    """A plain cross-origin GET is the browser's own to withhold; everything else is refused here."""
    return scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD", "OPTIONS")


def _netloc(origin: str) -> str:
    """Host and port of an origin, which has nothing behind them."""
    return origin.partition("://")[2]


def _cookie(header: str | None) -> str | None:
    if not header:
        return None
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


def _limited(headers: Mapping[bytes, str], receive: Receive, most: int) -> Receive:
    """Refuse a body beyond the limit: by its declared length at once, else when it has grown that far."""
    too_large = PayloadTooLargeError(f"a body may have {most // 1024} KiB at most here")
    declared = headers.get(b"content-length", "0")
    if not declared.isdigit() or int(declared) > most:
        raise too_large
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise too_large
        return message

    return counted


async def _refuse(error: CouncilError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": error.detail[:120]})
        return
    await problem_response(error)(scope, receive, send)
