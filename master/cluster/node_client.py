"""The master's side of one node's wire: requests out, typed messages in, foreign errors translated."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import httpx
import msgspec

from common import errors, tls
from common.http_client import make_client, make_transport
from common.no_answer import why_no_answer
from common.protocol import (
    EmbedResponse,
    EngineInfo,
    EngineName,
    GenerateRequest,
    Health,
    LineSplitter,
    ModelInfo,
    StreamMessage,
    encoder,
    stream_decoder,
)
from common.tls import Trust
from master.cluster.uploads import Uploads

_T = TypeVar("_T")
_JSON = {"content-type": "application/json"}
_GENERATE = "/api/generate"
_PULL = "/api/models/pull"
_CONTROL_TIMEOUT_S = 4.0
_DISMISS_TIMEOUT_S = 2.0
# The transport translates most of aiohttp's exceptions, not all of them.
_TRANSPORT_ERRORS = (httpx.HTTPError, httpx.StreamError, aiohttp.ClientError, OSError)


class Inventory(msgspec.Struct, frozen=True):
    """The models of a node, and how many of them each of its engines holds at once.

    `listed`: the engines that told theirs; `None` where a node does not say.
    """

    models: list[ModelInfo]
    max_loaded: dict[str, int] = {}
    listed: list[str] | None = None

    def of(self, engine: EngineName) -> list[ModelInfo] | None:
        """The models of one engine; `None` where it did not tell them."""
        if self.listed is not None and engine not in self.listed:
            return None
        return [one for one in self.models if one.engine == engine]


class _Engines(msgspec.Struct, frozen=True):
    engines: list[EngineInfo] = []


_health_decoder = msgspec.json.Decoder(Health)
_inventory_decoder = msgspec.json.Decoder(Inventory)
_engines_decoder = msgspec.json.Decoder(_Engines)
_embed_decoder = msgspec.json.Decoder(EmbedResponse)


class Messages:
    """The messages of one call as its node sends them, by `read`; entered by `async with`."""

    __slots__ = ("_content", "_node", "_response", "_splitter")

    def __init__(self, response: aiohttp.ClientResponse, node: str) -> None:
        self._response = response
        self._content = response.content
        self._splitter = LineSplitter()
        self._node = node

    async def __aenter__(self) -> Messages:
        await self._response.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._response.__aexit__(kind, error, trace)

    async def read(self) -> list[StreamMessage]:
        """What the next read brought, one message at least; none at the end of the bytes.

        Whether the last message came is the caller's to see. Raises `StreamCutError`.
        """
        try:
            while data := await self._content.readany():
                if lines := self._splitter.feed(data):
                    return [stream_decoder.decode(line) for line in lines]
            if rest := self._splitter.rest:
                self._splitter = LineSplitter()
                return [stream_decoder.decode(rest)]
            return []
        except _TRANSPORT_ERRORS as error:
            raise errors.StreamCutError(
                f"the connection to {self._node} broke in the middle of an answer", node=self._node
            ) from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise errors.StreamCutError(
                f"{self._node} sent a line that cannot be read: {error}", node=self._node
            ) from error


class NodeClient:
    """One node by URL, key and certificate. Raises only errors of `common.errors`."""

    def __init__(
        self, name: str, url: str, key: str | None, *, connect_timeout_s: float, trust: Trust | None = None
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.key = key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._transport = make_transport(trust=trust)
        self._client = make_client(
            self.url, connect_timeout_s=connect_timeout_s, headers=headers, transport=self._transport
        )
        # Of every streamed call, made once: merging them anew takes longer than sending the request.
        self._headers = [*headers.items(), *_JSON.items()]
        self._generate_url = self.url + _GENERATE
        self._connect_timeout_s = connect_timeout_s
        self.uploads = Uploads()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def health(self) -> Health:
        """A node that is unhealthy answers 503 with the same body: that is an answer too."""
        response = await self._request("GET", "/health", accept=(200, 503))
        return self._decode(_health_decoder, response.content)

    async def inventory(self) -> Inventory:
        return self._decode(_inventory_decoder, (await self._request("GET", "/health/models")).content)

    async def models(self) -> list[ModelInfo]:
        return (await self.inventory()).models

    async def unload(self, model: str, engine: str) -> None:
        """Free a model's memory; goes on when this is cancelled."""
        body = encoder.encode({"model": model, "engine": engine})
        await self._request("POST", "/api/models/unload", content=body)

    async def dismiss(self) -> None:
        """Tell the node that it is removed, while its key still opens it."""
        await self._request("POST", "/api/membership/end", timeout_s=_DISMISS_TIMEOUT_S)

    async def engines(self) -> list[EngineInfo]:
        return self._decode(_engines_decoder, (await self._request("GET", "/health/ollama")).content).engines

    async def system(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self._request("GET", "/health/system")).json()
        return found

    async def embed(self, model: str, texts: list[str]) -> EmbedResponse:
        body = encoder.encode({"model": model, "input": texts})
        response = await self._request("POST", "/api/embed", content=body, timeout_s=120.0)
        return self._decode(_embed_decoder, response.content)

    @asynccontextmanager
    async def pull(self, model: str, engine: EngineName = "main") -> AsyncIterator[AsyncIterator[bytes]]:
        """Lines of progress while the node fetches a model."""
        body = encoder.encode({"model": model, "engine": engine, "stream": True})
        async with (
            await self._open(self.url + _PULL, body) as response,
            aclosing(self._lines(response.content.iter_any())) as lines,
        ):
            yield lines

    @staticmethod
    def written(request: GenerateRequest) -> bytes:
        """The body of a call. Raises `InvalidRequestError` where there is no JSON for it."""
        try:
            return encoder.encode(request)
        except (UnicodeEncodeError, RecursionError, TypeError) as error:
            raise errors.InvalidRequestError(f"the call cannot be written as JSON: {error}") from error

    async def generate(self, body: bytes, *, traceparent: str | None) -> Messages:
        """Open one streamed call, to be entered by `async with`; leaving it early cancels the call."""
        return Messages(await self._open(self._generate_url, body, traceparent), self.name)

    async def _lines(self, reads: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        splitter = LineSplitter()
        try:
            async for data in reads:
                for line in splitter.feed(data):
                    yield line
        except _TRANSPORT_ERRORS as error:
            raise errors.StreamCutError(
                f"the connection to {self.name} broke; it goes on there by itself", node=self.name
            ) from error
        if splitter.rest:
            yield splitter.rest

    async def _open(self, url: str, body: bytes, traceparent: str | None = None) -> aiohttp.ClientResponse:
        """A streamed answer past httpx and its layers, to be entered by `async with`."""
        headers = [*self._headers, ("traceparent", traceparent)] if traceparent else self._headers
        try:
            response = await self._transport.post(
                url, headers=headers, body=body, connect_timeout_s=self._connect_timeout_s
            )
        except _TRANSPORT_ERRORS as error:
            raise self._unreachable(error) from error
        if response.status == 200:
            return response
        async with response:
            raise await self._refused(response)

    async def _refused(self, response: aiohttp.ClientResponse) -> errors.CouncilError:
        if response.status in (401, 403, 429):
            # Nothing is wrong with the call: another node may take it.
            return errors.NodeUnreachableError(
                f"{self.name} does not take this master's key any more; remove it and let it join again",
                node=self.name,
            )
        try:
            return self._failure(response.status, await response.read())
        except _TRANSPORT_ERRORS as error:
            return self._unreachable(error)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        timeout_s: float = _CONTROL_TIMEOUT_S,
        accept: tuple[int, ...] = (200,),
    ) -> httpx.Response:
        try:
            response = await self._client.request(
                method, path, content=content, headers=_JSON if content else None, timeout=timeout_s
            )
        except _TRANSPORT_ERRORS as error:
            raise self._unreachable(error) from error
        if response.status_code not in accept:
            raise self._failure(response.status_code, response.content)
        return response

    def _failure(self, status: int, body: bytes) -> errors.CouncilError:
        try:
            problem = json.loads(body)
        except ValueError:
            problem = None
        if isinstance(problem, dict) and "code" in problem:
            return errors.from_problem(problem, node=self.name)
        if status == 401:
            return errors.UnauthorizedError(f"{self.name} refused the key", node=self.name)
        return errors.NodeUnreachableError(
            f"{self.url} answered {status} and is not a worker node", node=self.name
        )

    def _unreachable(self, error: Exception) -> errors.NodeUnreachableError:
        reason = tls.explain(error)
        if reason is not None:
            return errors.UntrustedPeerError(
                f"what answers at {self.url} is not trusted to be {self.name}: {reason}", node=self.name
            )
        return errors.NodeUnreachableError(
            f"{self.name} does not answer at {self.url} ({why_no_answer(error)}); "
            "is `council node start` running there?",
            node=self.name,
        )

    def _decode(self, decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
        try:
            return decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise errors.NodeUnreachableError(
                f"{self.url} does not speak the wire of a worker node: {error}", node=self.name
            ) from error
