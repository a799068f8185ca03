"""The raw ASGI parts of the node: bodies decoded, problem answers, and who may call at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from common.asgi import App, Receive, Scope, Send, header, send_body
from common.attempts import Attempts, peer_of
from common.errors import (
    PROBLEM_MEDIA_TYPE,
    CouncilError,
    ForbiddenError,
    InvalidRequestError,
    MalformedBodyError,
    TooManyAttemptsError,
    UnauthorizedError,
)
from common.protocol import encoder
from common.security import bearer, digest_of, host_name, is_local_name, is_loopback, keys_match

OPEN_ROUTE = "/health"


def decode_body(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Decode a request. Raises `MalformedBodyError` (no JSON) or `InvalidRequestError` (wrong fields)."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBodyError(f"the body is not valid JSON in UTF-8: {error}") from error
    except RecursionError as error:
        raise MalformedBodyError("the body is nested too deeply") from error


async def send_problem(send: Send, error: CouncilError) -> None:
    """Answer with the error as `application/problem+json`."""
    headers = [(b"content-type", PROBLEM_MEDIA_TYPE.encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    if isinstance(error, UnauthorizedError):
        headers.append((b"www-authenticate", b"Bearer"))
    await send_body(send, error.status, headers, encoder.encode(error.to_problem()))


class Gatekeeper:
    """Asks every request for one of the node's keys, in one place for all routes, known and unknown.

    `keys` tells those that open it now. `None`: nobody is asked, which the entry point allows on loopback (or
    with `--insecure-lan`). Then at least no web page may use the node through a visitor's browser: an
    `Origin` is refused, and a `Host` that may be another site's name (DNS rebinding); `loopback_only` takes
    this machine's own names alone. `heard` is told each key that was right, those of calls that need none as
    well.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Callable[[], Sequence[str]] | None,
        loopback_only: bool,
        heard: Callable[[str], None],
    ) -> None:
        self._app = app
        self._keys = keys
        self._loopback_only = loopback_only
        self._attempts = Attempts()
        self._heard = heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            if self._keys is not None and scope["path"] == OPEN_ROUTE:
                self._listen(scope, self._keys())
            elif (refusal := self._refusal(scope)) is not None:
                await send_problem(send, refusal)
                return
        await self._app(scope, receive, send)

    def _listen(self, scope: Scope, keys: Sequence[str]) -> None:
        """A call that needs no key may have one; nobody is told whether it is right."""
        key = bearer(header(scope, b"authorization"))
        if key is not None and any([keys_match(key, one) for one in keys]):
            self._heard(key)

    def _refusal(self, scope: Scope) -> CouncilError | None:
        given: str | None = None
        host, origin = "", False
        for name, value in scope["headers"]:
            if name == b"authorization":
                given = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = True
        if self._keys is None:
            return self._check_site(host, origin)
        key = bearer(given)
        if key is None:
            return UnauthorizedError("send the node's key as `Authorization: Bearer KEY`")
        return self._judge(key, self._keys(), scope.get("client"))

    def _check_site(self, host: str, origin: bool) -> CouncilError | None:
        if origin:
            return ForbiddenError("a node without a key does not answer web pages; set COUNCIL_NODE_KEY")
        name = host_name(host)
        if self._loopback_only and not is_loopback(name):
            return ForbiddenError(
                f"this node serves its own machine only and was called as {host!r}; use http://127.0.0.1"
            )
        if not self._loopback_only and not is_local_name(name):
            return ForbiddenError(
                f"this node was called as {host!r}, which may be another site's name for it; use its IP "
                "address, or give it a key (COUNCIL_NODE_KEY)"
            )
        return None

    def _judge(self, key: str, keys: Sequence[str], client: tuple[str, int] | None) -> CouncilError | None:
        digest, peer, now = digest_of(key), peer_of(client[0] if client else None), time.monotonic()
        wait_s = self._attempts.wait_s(peer, digest, now)
        if wait_s > 0:
            return TooManyAttemptsError(
                f"too many wrong keys came from {peer}; try again in {wait_s:.0f} s", retry_after_s=wait_s
            )
        if any([keys_match(key, one) for one in keys]):
            self._attempts.passed(peer, digest)
            self._heard(key)
            return None
        self._attempts.failed(peer, digest, now)
        return UnauthorizedError("that is not, or no longer, the key of this node")
