"""What the HTTP engines share: requests whose every failure is one of ours, and the bytes of a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import httpx
import msgspec

from common.errors import CouncilError, EngineFailedError, EngineUnavailableError, StreamCutError
from common.http_client import Transport, streamed_headers
from common.no_answer import why_no_answer
from common.protocol import GenerateRequest
from common.telemetry import TraceContext

# `httpx-aiohttp` translates most of aiohttp's exceptions, not all of them.
TRANSPORT_ERRORS = (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, OSError)
_LONGEST_ERROR_BODY = 64 * 1024
# A dead kept connection shows at once. An engine that dies over a prompt takes longer: not asked twice.
_STALE_WITHIN_S = 0.5
_CONNECT_S = 10.0
# After the last line only the end of the body is due; waiting for it keeps the connection for the next call.
_END_OF_BODY_S = 0.5
JSON_HEADERS = {"content-type": "application/json"}

T = TypeVar("T")
ErrorOfBody = Callable[[int, bytes], CouncilError]
encode_json = msgspec.json.Encoder().encode


def trace_headers(request: GenerateRequest) -> dict[str, str]:
    """The ids that go on to the engine with the call."""
    headers = dict(JSON_HEADERS)
    trace = TraceContext.parse(request.traceparent)
    if trace is not None:
        headers["traceparent"] = str(trace.child())
    if request.request_id and request.request_id.isascii() and request.request_id.isprintable():
        headers["x-request-id"] = request.request_id
    return headers


def shown_address(base_url: str) -> str:
    """The address without a password in it, for health and logs."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class WireClient:
    """One engine's HTTP side. `client` has the engine's base URL; `error_of_body` reads its errors.

    Streams go straight through the client's `transport`: the client's layers and httpx's objects have nothing
    to do there, and would take a good part of a call's CPU time.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        what: str,
        error_of_body: ErrorOfBody,
        transport: Transport,
    ) -> None:
        self._client = client
        self._transport = transport
        self._what = what
        self._error_of_body = error_of_body
        self._urls: dict[str, str] = {}
        self._headers = streamed_headers(client.headers)
        self._connect_timeout_s = client.timeout.connect or _CONNECT_S

    def unavailable(self, error: BaseException) -> EngineUnavailableError:
        return EngineUnavailableError(
            f"{self._what} does not answer ({why_no_answer(error)}); is it running there?",
            retry_after_s=2.0,
        )

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        timeout_s: float | None,
        error_of_body: ErrorOfBody | None = None,
    ) -> bytes:
        """One request, one body. `timeout_s` bounds connecting and each read; `None`: the caller waits."""
        connect_s = self._client.timeout.connect
        if timeout_s is not None:
            connect_s = min(connect_s or timeout_s, timeout_s)
        timeout = httpx.Timeout(connect_s, read=timeout_s)
        content = None if body is None else encode_json(body)
        request = self._client.build_request(
            method, path, content=content, headers=JSON_HEADERS if content else None, timeout=timeout
        )
        try:
            response = await _sent(partial(self._client.send, request, stream=True))
            try:
                await response.aread()
            finally:
                await response.aclose()
        except TRANSPORT_ERRORS as error:
            raise self.unavailable(error) from error
        if not response.is_success:
            raise (error_of_body or self._error_of_body)(response.status_code, response.content)
        return response.content

    async def open(
        self, path: str, body: bytes, headers: Mapping[str, str], error_of_body: ErrorOfBody
    ) -> aiohttp.ClientResponse:
        """A streamed answer, to be entered by `async with`; leaving it early hangs up on the engine.

        Its `content.readany()` is what one read brought, empty at the end. Raises `EngineUnavailableError`
        before the headers and the engine's error for a status that is no success; a connection that breaks
        inside the block is for the caller (`TRANSPORT_ERRORS`).
        """
        url = self._urls.get(path)
        if url is None:
            # Merging and parsing the URL anew for each call would take a sixth of the call's CPU time.
            url = self._urls[path] = str(self._client.build_request("POST", path).url)
        send = partial(
            self._transport.post,
            url,
            headers=[*self._headers, *headers.items()],
            body=body,
            connect_timeout_s=self._connect_timeout_s,
        )
        try:
            response = await _sent(send)
        except TRANSPORT_ERRORS as error:
            raise self.unavailable(error) from error
        if 200 <= response.status < 300:
            return response
        async with response:
            raise error_of_body(response.status, await _read_some(response))

    def cut(self, error: BaseException | None, model: str) -> StreamCutError:
        reason = f" ({type(error).__name__})" if error is not None else ""
        return StreamCutError(f"{self._what} ended its answer without its last message{reason}", model=model)


async def read_the_end(content: aiohttp.StreamReader) -> None:
    """Read on to the end of a body whose last message has come, so that the connection is kept."""
    if content.at_eof():
        return
    try:
        async with asyncio.timeout(_END_OF_BODY_S):
            while await content.readany():
                pass
    except (TimeoutError, *TRANSPORT_ERRORS):
        return  # the answer is whole; only the connection is not kept


async def _sent(send: Callable[[], Awaitable[T]]) -> T:
    """Send, once more if it went into a kept connection that the engine was just closing."""
    began = time.monotonic()
    try:
        return await send()
    except TRANSPORT_ERRORS as error:
        if not _was_closed_meanwhile(error) or time.monotonic() - began > _STALE_WITHIN_S:
            raise
    return await send()


def _was_closed_meanwhile(error: BaseException) -> bool:
    cause = error.__cause__ or error
    closed = isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return closed and not isinstance(cause, aiohttp.ClientConnectorError)


async def _read_some(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    try:
        async for data in response.content.iter_any():
            body += data
            if len(body) > _LONGEST_ERROR_BODY:
                break
    except TRANSPORT_ERRORS:
        pass  # what arrived of the error is better than the news that its end did not
    return bytes(body)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    """Decode an answer of the engine. Raises `EngineFailedError` when it is not what it should be."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineFailedError(f"{what} cannot be read: {error}") from error
