"""Ollama, spoken directly: always as a stream, and an end without `done` is not taken for an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import msgspec

from common.errors import CouncilError, EngineFailedError, ModelNotFoundError, StreamCutError
from common.http_client import make_client, make_transport
from common.protocol import EngineInfo, EngineName, GenerateRequest, LineSplitter, Message, ModelInfo
from common.usage import TokenUsage
from worker_node.engines.base import Embedded, Engine, EngineEvent, ModelLimits, PullProgress, Text
from worker_node.engines.loads import Loads, Patience
from worker_node.engines.local_processes import LocalProcesses
from worker_node.engines.ollama_errors import classify, error_of_body
from worker_node.engines.ollama_wire import (
    ChatLine,
    Details,
    TaggedModel,
    chat_line_decoder,
    embed_decoder,
    finished,
    one_slot_only,
    pull_line_decoder,
    running_decoder,
    shown_decoder,
    tags_decoder,
    version_decoder,
)
from worker_node.engines.wire_client import (
    JSON_HEADERS,
    TRANSPORT_ERRORS,
    WireClient,
    decode,
    encode_json,
    read_the_end,
    shown_address,
    trace_headers,
)

QUERY_TIMEOUT_S: Final = 3.0
UNLOAD_TIMEOUT_S: Final = 30.0  # it is answered at once, and done when the model's calls have ended


class OllamaEngine(Engine):
    """One Ollama server. `keep_alive` is passed with each call, or left to the server when `None`."""

    kind = "ollama"

    def __init__(
        self,
        *,
        name: EngineName,
        base_url: str,
        limits: ModelLimits,
        connect_timeout_s: float = 10.0,
        load_timeout_s: float = 300.0,
        keep_alive: str | float | None = None,
    ) -> None:
        self.name = name
        self._base_url = base_url.rstrip("/")
        self._limits = limits
        self._connect_timeout_s = connect_timeout_s
        self._keep_alive = keep_alive
        self._loads = Loads(Patience(load_timeout_s, self._is_loaded))
        self._processes = LocalProcesses(self._base_url)
        self._own_context: dict[str, int] = {}  # by model name: the model's own context length
        self._embedding_only: set[str] = set()
        self._shown: dict[str, tuple[int | None, list[str], Details | None]] = {}  # by digest

    async def start(self) -> None:
        transport = make_transport()
        self._client = make_client(
            self._base_url,
            transport=transport,
            connect_timeout_s=self._connect_timeout_s,
            headers={"accept-encoding": "identity", "user-agent": "lan-council-node"},
        )
        self._wire = WireClient(
            self._client,
            what=f"Ollama at {shown_address(self._base_url)}",
            error_of_body=partial(error_of_body, model=None),
            transport=transport,
        )

    async def stop(self) -> None:
        await self._loads.stop()
        await self._client.aclose()

    async def info(self) -> EngineInfo:
        address = shown_address(self._base_url)
        began = time.perf_counter()
        try:
            body = await self._wire.ask("GET", "/api/version", timeout_s=QUERY_TIMEOUT_S)
            version = decode(version_decoder, body, "Ollama's version").version
        except CouncilError as error:
            return EngineInfo(
                name=self.name, kind=self.kind, address=address, status="disconnected", error=error.detail
            )
        latency_ms = round((time.perf_counter() - began) * 1000, 3)
        return EngineInfo(
            name=self.name,
            kind=self.kind,
            address=address,
            status="connected",
            version=version,
            latency_ms=latency_ms,
        )

    async def models(self) -> list[ModelInfo]:
        async with asyncio.TaskGroup() as group:
            # A failure of either is reported as itself and not as a group.
            tags = group.create_task(self._try("/api/tags"))
            running = group.create_task(self._try("/api/ps"))
        tagged = decode(tags_decoder, _body(tags.result()), "Ollama's model list").models or []
        resident = _resident(_body(running.result()))
        # A model that Ollama runs elsewhere (`:cloud`) would carry the question out of the LAN.
        local = [model for model in tagged if not (model.remote_host or model.remote_model)]
        return [await self._described(model, model.name in resident) for model in local]

    async def _try(self, path: str) -> bytes | CouncilError:
        try:
            return await self._wire.ask("GET", path, timeout_s=QUERY_TIMEOUT_S)
        except CouncilError as error:
            return error

    async def _described(self, model: TaggedModel, resident: bool) -> ModelInfo:
        details = model.details
        own_context = details.context_length if details else None
        capabilities = model.capabilities
        if own_context is None or capabilities is None:
            # Ollama up to 0.24 does not list them.
            shown_context, shown_capabilities, shown_details = await self._show(model)
            own_context = own_context or shown_context
            capabilities = shown_capabilities if capabilities is None else capabilities
            details = details or shown_details
        if own_context:
            self._own_context[model.name] = own_context
        if "embedding" in capabilities and "completion" not in capabilities:
            self._embedding_only.add(model.name)
        return ModelInfo(
            name=model.name,
            size=model.size,
            engine=self.name,
            resident=resident,
            slots=1 if one_slot_only(details, capabilities) else self._limits.num_parallel,
            capabilities=capabilities,
            context_length=self._num_ctx(model.name),
        )

    async def _show(self, model: TaggedModel) -> tuple[int | None, list[str], Details | None]:
        key = model.digest or model.name
        if key not in self._shown:
            try:
                body = await self._wire.ask(
                    "POST", "/api/show", {"model": model.name}, timeout_s=QUERY_TIMEOUT_S
                )
                shown = decode(shown_decoder, body, "Ollama's description of a model")
            except (ModelNotFoundError, EngineFailedError):
                return None, [], None  # deleted since it was listed, or a broken file: listed all the same
            self._shown[key] = (shown.context_length, shown.capabilities or ["completion"], shown.details)
        return self._shown[key]

    def _num_ctx(self, model: str) -> int:
        """The same in every request to a model, or Ollama reloads it."""
        limit = self._limits.by_model.get(model, self._limits.context_length)
        return min(limit, self._own_context.get(model, limit))

    async def load(self, model: str) -> float:
        return await self._loads.run(model, partial(self._load_now, model))

    async def _load_now(self, model: str) -> None:
        if model in self._embedding_only:
            await self._ask_model("/api/embed", {"model": model, "input": [], **self._constant(model)})
        else:
            body = {"model": model, "messages": [], "stream": False, **self._constant(model)}
            await self._ask_model("/api/chat", body)

    async def _is_loaded(self, model: str) -> bool:
        return model in _resident(await self._wire.ask("GET", "/api/ps", timeout_s=QUERY_TIMEOUT_S))

    def _constant(self, model: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"options": {"num_ctx": self._num_ctx(model)}}
        if self._keep_alive is not None:
            fields["keep_alive"] = self._keep_alive
        return fields

    async def _ask_model(self, path: str, body: dict[str, Any], timeout_s: float | None = None) -> bytes:
        reader = partial(error_of_body, model=body["model"])
        return await self._wire.ask("POST", path, body, timeout_s=timeout_s, error_of_body=reader)

    async def unload(self, model: str) -> None:
        path, empty = ("/api/embed", "input") if model in self._embedding_only else ("/api/chat", "messages")
        body = {"model": model, empty: [], "stream": False, "keep_alive": 0}
        await self._ask_model(path, body, UNLOAD_TIMEOUT_S)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineEvent]:
        model = request.model
        splitter = LineSplitter()
        body = encode_json(self._chat_body(request))
        reader = partial(error_of_body, model=model)
        async with await self._wire.open("/api/chat", body, trace_headers(request), reader) as response:
            last: ChatLine | None = None
            content = response.content
            try:
                while data := await content.readany():
                    thinking, answer, last, failure = _merge(splitter.feed(data), model)
                    ends = last is not None
                    if thinking:
                        yield Text("thinking", thinking, ends)
                    if answer:
                        yield Text("answer", answer, ends)
                    if failure is not None:
                        raise failure
                    if ends:
                        break
            except TRANSPORT_ERRORS as error:
                raise self._wire.cut(error, model) from error
            except ValueError as error:
                raise EngineFailedError(f"Ollama's stream cannot be read: {error}", model=model) from error
            if last is None and splitter.rest:
                last = _last_line(splitter.rest, model)
                for channel, text in _texts(last):
                    yield Text(channel, text)
            if last is None:
                raise self._wire.cut(None, model)
            try:
                yield finished(last)
            finally:
                await read_the_end(content)

    def _chat_body(self, request: GenerateRequest) -> dict[str, Any]:
        messages = list(request.messages or ())
        if request.prompt is not None:
            messages = [Message("user", request.prompt)]
        if request.system:
            messages.insert(0, Message("system", request.system))
        # `truncate` false: a 400 where Ollama would drop the oldest messages without a word.
        fields: dict[str, Any] = {"model": request.model, "messages": messages, "stream": True}
        fields.update(self._constant(request.model))
        fields["options"] = {**request.options, **fields["options"]}
        fields["truncate"] = False
        if request.format is not None:
            fields["format"] = request.format
        if request.think is not None:
            fields["think"] = request.think
        return fields

    async def embed(self, model: str, texts: list[str]) -> Embedded:
        if not texts:
            return Embedded([], TokenUsage())
        fields = {"model": model, "input": texts, "truncate": False, **self._constant(model)}
        answer = decode(embed_decoder, await self._ask_model("/api/embed", fields), "Ollama's embeddings")
        vectors = answer.embeddings or []
        if len(vectors) != len(texts):
            raise EngineFailedError(f"{len(texts)} texts got {len(vectors)} embeddings", model=model)
        return Embedded(vectors, TokenUsage.of(answer.prompt_eval_count or 0, 0))

    async def pull(self, model: str) -> AsyncIterator[PullProgress]:
        splitter = LineSplitter()
        reader = partial(error_of_body, model=model)
        body = encode_json({"model": model, "stream": True})
        succeeded = False
        async with await self._wire.open("/api/pull", body, JSON_HEADERS, reader) as response:
            try:
                while data := await response.content.readany():
                    for line in splitter.feed(data):
                        one = decode(pull_line_decoder, line, "Ollama's progress line")
                        if one.error is not None:
                            raise classify(one.error, status=None, model=model)
                        succeeded = succeeded or one.status == "success"
                        yield PullProgress(one.status or "", one.completed, one.total)
            except TRANSPORT_ERRORS as error:
                raise self._wire.cut(error, model) from error
        if not succeeded:
            raise self._wire.cut(None, model)

    def process_ids(self) -> list[int]:
        return self._processes.ids()


def _body(answer: bytes | CouncilError) -> bytes:
    if isinstance(answer, CouncilError):
        raise answer
    return answer


def _resident(body: bytes) -> set[str]:
    listed = decode(running_decoder, body, "Ollama's list of loaded models").models
    return {model.name for model in listed or []}


def _merge(lines: list[bytes], model: str) -> tuple[str, str, ChatLine | None, CouncilError | None]:
    """The text of one read, by channel, and how the stream ended if it did: its last line, or a failure."""
    thinking = answer = ""
    for raw in lines:
        try:
            line = _decoded(raw, model)
        except CouncilError as error:
            return thinking, answer, None, error
        message = line.message
        if message is not None:
            if message.thinking:
                thinking += message.thinking
            if message.content:
                answer += message.content
        if line.done:
            return thinking, answer, line, None
    return thinking, answer, None, None


def _texts(line: ChatLine) -> list[tuple[Any, str]]:
    message = line.message
    if message is None:
        return []
    pairs = (("thinking", message.thinking), ("answer", message.content))
    return [(channel, text) for channel, text in pairs if text]


def _decoded(raw: bytes, model: str) -> ChatLine:
    try:
        line = chat_line_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineFailedError(f"Ollama sent a line that cannot be read: {error}", model=model) from error
    if line.error is not None:
        raise classify(line.error, status=None, model=model)
    return line


def _last_line(raw: bytes, model: str) -> ChatLine:
    """A last line without its newline counts if it is whole and says `done`."""
    try:
        line = _decoded(raw, model)
    except EngineFailedError as error:
        if isinstance(error.__cause__, msgspec.DecodeError | UnicodeDecodeError):
            raise StreamCutError("Ollama's answer ended inside a line", model=model) from error
        raise
    if not line.done:
        raise StreamCutError("Ollama ended its answer without its last message", model=model)
    return line
