"""llama-server, vLLM, LM Studio: servers that speak OpenAI's dialect and look after their own models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from common.errors import (
    CouncilError,
    EngineBusyError,
    EngineFailedError,
    EngineUnavailableError,
    NotSupportedError,
)
from common.http_client import make_client, make_transport
from common.protocol import EngineInfo, EngineName, GenerateRequest, ModelInfo
from common.usage import TokenUsage
from worker_node.engines.base import Embedded, Engine, EngineEvent, ModelLimits, PullProgress
from worker_node.engines.loads import Loads
from worker_node.engines.local_processes import LocalProcesses
from worker_node.engines.ollama_errors import error_of_body
from worker_node.engines.ollama_wire import version_decoder
from worker_node.engines.openai_chat import stream_chat
from worker_node.engines.openai_wire import (
    Dialect,
    ListedModel,
    Props,
    embeddings_decoder,
    model_list_decoder,
    props_decoder,
)
from worker_node.engines.wire_client import WireClient, decode, shown_address

QUERY_TIMEOUT_S: Final = 3.0
_LOADING_POLL_S: Final = 0.5
_EMBEDDER_NAMES: Final = ("embed", "bge-", "e5-", "gte-", "minilm")


class OpenAICompatibleEngine(Engine):
    """One server, `base_url` up to and including `/v1`. What kind it is, is found out by asking it."""

    def __init__(
        self,
        *,
        name: EngineName,
        base_url: str,
        limits: ModelLimits,
        api_key: str | None = None,
        connect_timeout_s: float = 10.0,
    ) -> None:
        self.name = name
        self.kind = "openai"
        self._base_url = base_url.rstrip("/")
        self._root = self._base_url.removesuffix("/v1")
        self._api_key = api_key
        self._limits = limits
        self._connect_timeout_s = connect_timeout_s
        self._loads = Loads()
        self._processes = LocalProcesses(self._base_url)
        self._dialect: Dialect | None = None
        self._props = Props()
        self._version: str | None = None

    async def start(self) -> None:
        headers = {"accept-encoding": "identity", "user-agent": "lan-council-node"}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        # Absolute paths are asked for, so that `/props` and `/health` beside `/v1` need no second client.
        transport = make_transport()
        self._client = make_client(
            "", connect_timeout_s=self._connect_timeout_s, headers=headers, transport=transport
        )
        self._wire = WireClient(
            self._client,
            what=f"the engine at {shown_address(self._base_url)}",
            error_of_body=partial(error_of_body, model=None),
            transport=transport,
        )

    async def stop(self) -> None:
        await self._loads.stop()
        await self._client.aclose()

    async def info(self) -> EngineInfo:
        began = time.perf_counter()
        address = shown_address(self._base_url)
        try:
            await self._ask("GET", f"{self._base_url}/models")
            latency_ms = round((time.perf_counter() - began) * 1000, 3)
            await self._find_dialect()
        except EngineBusyError:
            latency_ms = None  # it lives, and loads
        except CouncilError as error:
            self._dialect = None  # what answers there next may be another server
            return EngineInfo(
                name=self.name, kind=self.kind, address=address, status="disconnected", error=error.detail
            )
        return EngineInfo(
            name=self.name,
            kind=self.kind,
            address=address,
            status="connected",
            version=self._version,
            latency_ms=latency_ms,
        )

    async def models(self) -> list[ModelInfo]:
        body = await self._ask("GET", f"{self._base_url}/models")
        listed = decode(model_list_decoder, body, "the engine's model list").data or []
        dialect = await self._find_dialect()
        ready = dialect != "llama-server" or await self._is_ready()
        return [self._described(model, ready) for model in listed]

    def _described(self, model: ListedModel, ready: bool) -> ModelInfo:
        embedder = any(part in model.id.lower() for part in _EMBEDDER_NAMES)
        slots = min(self._limits.num_parallel, self._props.total_slots or self._limits.num_parallel)
        defaults = self._props.default_generation_settings
        context = (defaults.n_ctx if defaults else None) or model.max_model_len
        return ModelInfo(
            name=model.id,
            size=(model.meta.size if model.meta else None) or 0,
            engine=self.name,
            resident=ready,
            slots=slots,
            capabilities=["embedding"] if embedder else ["completion"],
            context_length=context or self._limits.context_length,
        )

    async def _find_dialect(self) -> Dialect:
        """Ask once what kind of server this is; again after it was gone."""
        if self._dialect is None:
            props = await self._optional(f"{self._root}/props")
            if props is not None and b"total_slots" in props:
                self._props = decode(props_decoder, props, "llama-server's properties")
                self._dialect, self._version = "llama-server", self._props.build_info
            elif (lm_studio := await self._optional(f"{self._root}/api/v0/models")) is not None:
                self._dialect = "lm-studio" if b'"data"' in lm_studio else "openai"
            elif (version := await self._optional(f"{self._root}/version")) is not None:
                self._dialect = "vllm"
                self._version = decode(version_decoder, version, "vLLM's version").version
            else:
                self._dialect = "openai"
            self.kind = self._dialect
        return self._dialect

    async def _optional(self, url: str) -> bytes | None:
        """The answer of a route that only some servers have."""
        try:
            return await self._ask("GET", url)
        except (EngineUnavailableError, EngineBusyError) as error:
            if isinstance(error.__cause__, Exception) or isinstance(error, EngineBusyError):
                raise  # the server is gone or loading: nothing was learned about its kind
            return None
        except CouncilError:
            return None

    async def _is_ready(self) -> bool:
        try:
            await self._ask("GET", f"{self._root}/health")
        except EngineBusyError:
            return False
        return True

    async def _ask(self, method: str, url: str) -> bytes:
        return await self._wire.ask(method, url, timeout_s=QUERY_TIMEOUT_S)

    async def load(self, model: str) -> float:
        return await self._loads.run(model, self._wait_until_ready)

    async def _wait_until_ready(self) -> None:
        """These servers load by themselves; what is left is to wait while they say that they do."""
        if await self._find_dialect() == "llama-server":
            while not await self._is_ready():  # noqa: ASYNC110 - another process cannot set our event
                await asyncio.sleep(_LOADING_POLL_S)

    async def unload(self, model: str) -> None:
        raise NotSupportedError(f"this engine decides by itself when {model} is unloaded", model=model)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineEvent]:
        dialect = await self._find_dialect()
        events = stream_chat(
            self._wire,
            request,
            model=request.model,
            dialect=dialect,
            path=f"{self._base_url}/chat/completions",
        )
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def embed(self, model: str, texts: list[str]) -> Embedded:
        return await embed(self._wire, model, texts, path=f"{self._base_url}/embeddings")

    async def pull(self, model: str) -> AsyncIterator[PullProgress]:
        raise NotSupportedError(f"this engine cannot fetch {model}; start it with that model", model=model)
        yield  # makes this an iterator, as the interface has it

    def process_ids(self) -> list[int]:
        return self._processes.ids()


async def embed(wire: WireClient, model: str, texts: list[str], *, path: str = "/embeddings") -> Embedded:
    """Embed `texts` with an OpenAI-compatible server, in their order."""
    if not texts:
        return Embedded([], TokenUsage())
    fields = {"model": model, "input": texts, "encoding_format": "float"}
    body = await wire.ask(
        "POST", path, fields, timeout_s=None, error_of_body=partial(error_of_body, model=model)
    )
    answer = decode(embeddings_decoder, body, "the engine's embeddings")
    vectors = [item.embedding for item in sorted(answer.data or [], key=lambda item: item.index)]
    if len(vectors) != len(texts):
        raise EngineFailedError(f"{len(texts)} texts got {len(vectors)} embeddings", model=model)
    prompt_tokens = answer.usage.prompt_tokens if answer.usage else None
    return Embedded(vectors, TokenUsage.of(prompt_tokens or 0, 0))
