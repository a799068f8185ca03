"""The embedded engine: llama.cpp on this machine, one child process per loaded model.

Serves the GGUF files of the models folder, or practice models where there are none. Models load on demand;
within `max_loaded_models` the one unused for longest makes room, never one with calls running.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, cast

from common.errors import (
    ContextOverflowError,
    CouncilError,
    EngineBusyError,
    EngineFailedError,
    EngineUnavailableError,
    ModelNotFoundError,
    StreamCutError,
)
from common.logs import get_logger
from common.protocol import EngineInfo, EngineName, GenerateRequest, ModelInfo
from common.usage import TokenUsage
from worker_node.engines.base import Embedded, Engine, EngineEvent, Finished, ModelLimits, PullProgress
from worker_node.engines.gguf_folder import GgufFolder, GgufModel
from worker_node.engines.hub_child import fetch_from_hub
from worker_node.engines.llama_child import LlamaChild
from worker_node.engines.loads import Loads
from worker_node.engines.ollama_errors import error_of_body
from worker_node.engines.openai_chat import stream_chat
from worker_node.engines.openai_wire import embeddings_decoder
from worker_node.engines.wire_client import decode

log = get_logger(__name__)

_HEALTH_TIMEOUT_S: Final = 2.0
_BUSY_RETRY_S: Final = 2.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_EMBEDDING_SLOTS: Final = 1
_EMBEDDING_CONTEXT: Final = 2048  # tokens of one text; the compute buffers grow with it


@dataclass(slots=True)
class _Failures:
    """How often a file failed in a row, and when it may be tried again."""

    stamp: tuple[int, int]
    count: int = 0
    not_before: float = 0.0
    last: CouncilError | None = None


class EmbeddedEngine(Engine):
    """llama.cpp in child processes. `start` before use and `stop` after, on the loop that serves."""

    kind = "embedded"

    def __init__(
        self,
        *,
        name: EngineName = "main",
        models_dir: Path,
        limits: ModelLimits,
        allow_practice: bool = True,
    ) -> None:
        self.name = name
        self._limits = limits
        self._folder = GgufFolder(models_dir, allow_practice=allow_practice)
        self._known: dict[str, GgufModel] = {}
        self._scanning = asyncio.Lock()
        self._loads = Loads()
        self._children: dict[str, LlamaChild] = {}
        self._in_use: dict[str, int] = {}
        self._failures: dict[str, _Failures] = {}
        # Embedding runs in a process of its own (llama.cpp pools or generates); one at a time is kept.
        self._embedder: LlamaChild | None = None
        self._embedding = asyncio.Lock()

    async def start(self) -> None:
        try:
            await self._scan()
        except EngineUnavailableError as error:
            log.warning("the models folder cannot be read", error=error.detail)

    async def stop(self) -> None:
        await self._loads.stop()
        children = [*self._children.values(), *([self._embedder] if self._embedder else [])]
        self._children.clear()
        self._embedder = None
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(child.stop())

    async def info(self) -> EngineInfo:
        """Connected when llama.cpp is installed, the folder can be read and a loaded model answers."""
        began = time.perf_counter()
        version = error = None
        try:
            version = f"xllamacpp {importlib.metadata.version('xllamacpp')}"
            await self._scan()
            alive = [child for child in self._children.values() if child.alive]
            if alive:
                await alive[0].wire.ask("GET", "/health", timeout_s=_HEALTH_TIMEOUT_S)
        except importlib.metadata.PackageNotFoundError:
            error = "llama.cpp is not installed here: pip install xllamacpp"
        except CouncilError as failure:
            error = failure.detail
        return EngineInfo(
            name=self.name,
            kind=self.kind,
            address=str(self._folder.folder),
            status="disconnected" if error else "connected",
            version=version,
            latency_ms=round((time.perf_counter() - began) * 1000, 3),
            error=error,
        )

    async def models(self) -> list[ModelInfo]:
        return [
            ModelInfo(
                name=model.name,
                size=model.size,
                engine=self.name,
                resident=(child := self._children.get(model.name)) is not None and child.alive,
                slots=self._limits.num_parallel,
                capabilities=model.capabilities,
                context_length=self._context(model),
                practice=model.practice,
            )
            for model in (await self._scan()).values()
        ]

    async def _scan(self) -> dict[str, GgufModel]:
        async with self._scanning:
            try:
                self._known = await asyncio.to_thread(self._folder.scan)
            except OSError as error:
                raise EngineUnavailableError(
                    f"the models folder {self._folder.folder} cannot be read: {error.strerror}"
                ) from error
        return self._known

    async def _find(self, name: str) -> GgufModel:
        model = self._known.get(name) or (await self._scan()).get(name)
        if model is not None:
            return model
        damaged = self._folder.damaged(name)
        if damaged is not None:
            raise EngineFailedError(
                f"{damaged.name} is not a whole GGUF file; delete it and fetch it again with "
                f"`council models get`",
                model=name,
            )
        raise ModelNotFoundError(
            f"there is no model {name} in {self._folder.folder}; there is: "
            f"{', '.join(sorted(self._known)[:20]) or 'none'}. `council models get NAME` fetches one",
            model=name,
        )

    def _context(self, model: GgufModel) -> int:
        limit = self._limits.by_model.get(model.name, self._limits.context_length)
        return min(limit, model.header.context_length or limit)

    async def load(self, model: str) -> float:
        with self._use(model):
            return await self._ensure(model)

    async def _ensure(self, name: str) -> float:
        child = self._children.get(name)
        if child is not None and child.alive:
            return 0.0
        model = await self._find(name)
        return await self._loads.run(name, partial(self._load_now, model))

    async def _load_now(self, model: GgufModel) -> None:
        old = self._children.get(model.name)
        if old is not None and old.alive:
            return
        if old is not None:
            del self._children[model.name]
            await old.stop()
            self._note_failure(model, None)
        self._refuse_crash_loop(model)
        await self._make_room(model.name)
        child = LlamaChild(
            model.path,
            model=model.name,
            slots=self._limits.num_parallel,
            context=self._context(model),
            threads=self._threads(model),
        )
        try:
            await child.start()
        except CouncilError as error:
            self._note_failure(model, error)
            raise
        self._children[model.name] = child

    def _refuse_crash_loop(self, model: GgufModel) -> None:
        failures = self._failures.get(model.name)
        if failures is None or failures.stamp != model.stamp:
            return
        left_s = failures.not_before - time.monotonic()
        if left_s <= 0:
            return
        if failures.last is not None:
            raise type(failures.last)(failures.last.detail, model=model.name, retry_after_s=left_s)
        raise EngineFailedError(
            f"llama.cpp died {failures.count} times in a row with {model.path.name}; "
            f"next try in {left_s:.0f} s",
            model=model.name,
            retry_after_s=left_s,
        )

    def _note_failure(self, model: GgufModel, error: CouncilError | None) -> None:
        failures = self._failures.get(model.name)
        if failures is None or failures.stamp != model.stamp:
            failures = self._failures[model.name] = _Failures(model.stamp)
        failures.count += 1
        failures.last = error
        # The first time may be chance; from then on, ever longer.
        pause_s = (
            min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (failures.count - 2)) if failures.count > 1 else 0
        )
        failures.not_before = time.monotonic() + pause_s

    async def _make_room(self, name: str) -> None:
        """Unload until one more fits. Raises `EngineBusyError` when every loaded model has calls."""
        while len(self._children) >= self._limits.max_loaded_models:
            idle = [child for child in self._children.values() if not self._in_use.get(child.model)]
            if not idle:
                most = self._limits.max_loaded_models
                raise EngineBusyError(
                    f"{name} cannot be loaded: {', '.join(sorted(self._children))} are answering, and at "
                    f"most {most} are loaded at once (OLLAMA_MAX_LOADED_MODELS)",
                    model=name,
                    retry_after_s=_BUSY_RETRY_S,
                )
            oldest = min(idle, key=lambda child: child.last_used)
            del self._children[oldest.model]
            await oldest.stop()

    def _threads(self, model: GgufModel) -> int:
        """Compute threads of one child: the cores, shared by the models that can be loaded beside it."""
        if model.practice:
            return 1
        together = min(self._limits.max_loaded_models, sum(not one.practice for one in self._known.values()))
        return max(1, _cores() // max(1, together))

    @contextmanager
    def _use(self, model: str) -> Iterator[None]:
        """Count a call, from before its load to its end: a model in use is not unloaded."""
        self._in_use[model] = self._in_use.get(model, 0) + 1
        try:
            yield
        finally:
            self._in_use[model] -= 1
            if not self._in_use[model]:
                del self._in_use[model]
            child = self._children.get(model)
            if child is not None:
                child.last_used = time.monotonic()

    async def unload(self, model: str) -> None:
        if self._in_use.get(model):
            raise EngineBusyError(f"{model} is answering", model=model, retry_after_s=_BUSY_RETRY_S)
        child = self._children.pop(model, None)
        if child is not None:
            await child.stop()
        elif model not in self._known:
            await self._find(model)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineEvent]:
        with self._use(request.model):
            await self._ensure(request.model)
            child = self._children[request.model]
            events = stream_chat(
                child.wire,
                request,
                model=request.model,
                dialect="llama-server",
                path="/v1/chat/completions",
            )
            try:
                # An iterator by its interface, and a generator that must be closed when our caller hangs up.
                async with aclosing(cast("AsyncGenerator[EngineEvent, None]", events)):
                    async for event in events:
                        if isinstance(event, Finished):
                            self._failures.pop(request.model, None)
                        yield event
            except (EngineUnavailableError, StreamCutError):
                await child.settle()  # so that the next call loads anew
                raise

    async def embed(self, model: str, texts: list[str]) -> Embedded:
        if not texts:
            return Embedded([], TokenUsage())
        async with self._embedding:
            child = await self._embedder_for(await self._find(model))
            body = await child.wire.ask(
                "POST",
                "/v1/embeddings",
                {"model": model, "input": texts},
                timeout_s=None,
                error_of_body=partial(_embedding_error, model),
            )
        answer = decode(embeddings_decoder, body, "llama.cpp's embeddings")
        items = sorted(answer.data or (), key=lambda one: one.index)
        if len(items) != len(texts):
            raise EngineFailedError(f"{len(texts)} texts got {len(items)} embeddings", model=model)
        prompt_tokens = (answer.usage.prompt_tokens if answer.usage else None) or 0
        return Embedded([one.embedding for one in items], TokenUsage.of(prompt_tokens, 0))

    async def _embedder_for(self, model: GgufModel) -> LlamaChild:
        current = self._embedder
        if current is not None and current.alive and current.path == model.path:
            return current
        self._embedder = None
        if current is not None:
            await current.stop()
        child = LlamaChild(
            model.path,
            model=model.name,
            slots=_EMBEDDING_SLOTS,
            context=min(_EMBEDDING_CONTEXT, self._context(model)),
            threads=self._threads(model),
            embeddings=True,
        )
        await child.start()
        self._embedder = child
        return child

    async def pull(self, model: str) -> AsyncIterator[PullProgress]:
        async with aclosing(fetch_from_hub(model, self._folder.folder)) as news:
            async for progress in news:
                yield progress

    def process_ids(self) -> list[int]:
        children = [*self._children.values(), *([self._embedder] if self._embedder else [])]
        return [child.pid for child in children if child.pid is not None]


def _embedding_error(model: str, status: int, body: bytes) -> CouncilError:
    error = error_of_body(status, body, model=model)
    if "too large to process" in error.detail:
        return ContextOverflowError(f"{error.detail}; split the text", model=model)
    return error


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
