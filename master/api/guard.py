"""The one place where every route asks for permission: HTTP and WebSocket, before any route is chosen.

On loopback nobody needs a key. Off loopback every path but `/health` needs one, as `Authorization: Bearer`
or as the cookie that `POST /api/login` sets. Everywhere the `Host` and the `Origin` of a browser are
checked: another site must reach neither the API nor a socket (DNS rebinding, cross-site requests).
"""

from __future__ import annotations

from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import CouncilError, ForbiddenError, PayloadTooLargeError, UnauthorizedError
from common.security import bearer, is_loopback, keys_match
from master.api.problems import problem_response

COOKIE = "council_key"
MAX_BODY_BYTES = 1024 * 1024
_OPEN_PATHS = frozenset({"/health"})
# What a browser needs before a person has logged in: the page itself, which holds no data.
_OPEN_PREFIXES = ("/assets/",)
_LOGIN_PATHS = frozenset({"/", "/api/login"})


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call: `key` is asked for when it is set; `hosts` are names the master may be called by."""

    key: str | None
    loopback_only: bool
    origins: frozenset[str]

    @classmethod
    def of(cls, *, host: str, key: str | None, insecure_lan: bool, cors_origins: list[str]) -> Access:
        asked = None if is_loopback(host) or insecure_lan else key
        return cls(asked, is_loopback(host), frozenset(cors_origins))


class Guard:
    """Pure ASGI middleware, outermost but for the logs; costs a few microseconds a request."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
            if scope["type"] == "http":
                receive = _limited(headers, receive)
        except CouncilError as error:
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._access.loopback_only and not is_loopback(_host_name(host)):
            raise ForbiddenError(
                f"this master serves its own machine only and was called as {host!r}; use http://127.0.0.1"
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin, host) and _changes_or_streams(scope):
            raise ForbiddenError(f"pages of {origin} may not call this master; see COUNCIL_CORS_ORIGINS")
        path = scope["path"]
        if self._access.key is None or path in _OPEN_PATHS or path in _LOGIN_PATHS:
            return
        if path.startswith(_OPEN_PREFIXES) or scope.get("method") == "OPTIONS":
            return
        given = bearer(headers.get("authorization")) or _cookie(headers.get("cookie"))
        if not keys_match(given, self._access.key):
            raise UnauthorizedError(
                "send the master's key as `Authorization: Bearer …`, or log in on the page"
            )

    def _is_ours(self, origin: str, host: str) -> bool:
        return (
            urlsplit(origin).netloc == host or origin in self._access.origins or "*" in self._access.origins
        )


def _changes_or_streams(scope: Scope) -> bool:
    """A plain cross-origin GET is the browser's own to withhold; everything else is refused here."""
    return scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD", "OPTIONS")


def _host_name(host: str) -> str:
    return urlsplit(f"//{host}").hostname or ""


def _cookie(header: str | None) -> str | None:
    if not header:
        return None
    morsel = SimpleCookie(header).get(COOKIE)
    return morsel.value if morsel else None


def _limited(headers: Headers, receive: Receive) -> Receive:
    """Refuse a body beyond the limit: by its declared length at once, else when it has grown that far."""
    too_large = PayloadTooLargeError(f"a body may have {MAX_BODY_BYTES // 1024} KiB at most")
    declared = headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
        raise too_large
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MAX_BODY_BYTES:
            raise too_large
        return message

    return counted


async def _refuse(error: CouncilError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": error.detail[:120]})
        return
    await problem_response(error)(scope, receive, send)
