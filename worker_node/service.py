"""The node's work: one model call from its admission to its last message, and what surrounds it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine

import msgspec

from common.errors import CouncilError, EngineUnavailableError, NodeDrainingError, QueueTimeoutError
from common.logs import get_logger
from common.protocol import EmbedRequest, EmbedResponse, EngineInfo, EngineName, GenerateRequest, ModelInfo
from worker_node.call import Call, CallLimits
from worker_node.engine_lane import EngineLane
from worker_node.engines.base import Engine, PullProgress
from worker_node.metrics import NodeMetrics
from worker_node.options import checked

log = get_logger(__name__)


class NodeService:
    """All engines of a node. `start` before use, `stop` after; both on the loop that serves."""

    def __init__(
        self,
        *,
        name: str,
        engines: list[Engine],
        limits: CallLimits,
        max_loaded_models: int,
        max_queue: int,
    ) -> None:
        self.name = name
        self.metrics = NodeMetrics()
        self.started_at = time.monotonic()
        self._limits = limits
        self._max_loaded_models = max_loaded_models
        self._lanes: dict[EngineName, EngineLane] = {
            engine.name: EngineLane(engine, max_resident=max_loaded_models, max_queue=max_queue)
            for engine in engines
        }
        self._calls: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._background: set[asyncio.Task[object]] = set()
        self._draining = False
        for engine_name, lane in self._lanes.items():
            self.metrics.watch(engine_name, lane.admission.core)

    async def start(self) -> None:
        for lane in self._lanes.values():
            await lane.engine.start()

    async def stop(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for lane in self._lanes.values():
            await lane.engine.stop()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def max_loaded(self) -> dict[str, int]:
        """How many models each engine holds at once."""
        return {str(name): self._max_loaded_models for name in self._lanes}

    @property
    def lanes(self) -> dict[EngineName, EngineLane]:
        return self._lanes

    async def open(self, request: GenerateRequest) -> Call:
        """Check a call before it takes a place. Raises what becomes an HTTP status."""
        received = time.monotonic()
        if self._draining:
            raise NodeDrainingError(f"node {self.name} is stopping; send the call to another node")
        request = checked(request)
        lane = self._lane(request.engine)
        try:
            model = await lane.catalog.find(request.model)
        except CouncilError as error:
            self.metrics.ended(request.engine, "unknown", error.code)
            raise
        if model.name != request.model:
            request = msgspec.structs.replace(request, model=model.name)
        return Call(self, lane, model, request, received=received, limits=self._limits)

    def enter(self, call: Call) -> None:
        """A call runs: a stopping node waits for it."""
        self._calls.add(call)
        self._idle.clear()

    def leave(self, call: Call) -> None:
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Embed a list of texts, in one slot of the model."""
        if self._draining:
            raise NodeDrainingError(f"node {self.name} is stopping; send the call to another node")
        lane = self._lane(request.engine)
        model = await lane.catalog.find(request.model)
        ticket = lane.admission.arrive(model.name, "background", lane.slots(model))
        try:
            try:
                async with asyncio.timeout(self._limits.queue_timeout_s):
                    while not ticket.admitted:
                        await ticket.changed()
            except TimeoutError as error:
                raise QueueTimeoutError(f"no slot of {model.name} was free", model=model.name) from error
            if not lane.catalog.is_resident(model):
                await lane.load(model.name)
            embedded = await lane.engine.embed(model.name, request.input)
        finally:
            lane.admission.leave(ticket)
        lane.catalog.note_use(model.name)
        return EmbedResponse(request.model, embedded.embeddings, embedded.token_usage)

    async def load(self, engine: EngineName, model: str) -> float:
        """Make a model resident, milliseconds; goes on when the caller hangs up."""
        lane = self._lane(engine)
        found = await lane.catalog.find(model)
        return await lane.load(found.name)

    async def unload(self, engine: EngineName, model: str) -> None:
        """Free a model's memory; goes on when the caller hangs up."""
        lane = self._lane(engine)
        found = await lane.catalog.find(model)

        async def unload() -> None:
            try:
                await lane.engine.unload(found.name)
            finally:
                lane.catalog.forget_residency()

        await self._detached(unload())

    async def pull(self, engine: EngineName, model: str) -> AsyncGenerator[PullProgress, None]:
        """Fetch a model, with progress. Leaving the iterator early leaves the pull running."""
        lane = self._lane(engine)
        # Unread progress is replaced by newer: a pull that nobody watches must not fill memory.
        news: asyncio.Queue[PullProgress] = asyncio.Queue(maxsize=16)

        async def pull() -> None:
            try:
                async for progress in lane.engine.pull(model):
                    if news.full():
                        news.get_nowait()
                    news.put_nowait(progress)
            finally:
                lane.catalog.forget_residency()

        task = self._detach(pull())
        while not (task.done() and news.empty()):
            getter = asyncio.ensure_future(news.get())
            try:
                await asyncio.wait((getter, task), return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    yield getter.result()
            finally:
                getter.cancel()
        await task

    def _detach(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        task: asyncio.Task[object] = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._detached_ended)
        return task

    async def _detached(self, work: Coroutine[object, object, object]) -> None:
        await asyncio.shield(self._detach(work))

    def _detached_ended(self, task: asyncio.Task[object]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("detached work failed", error=str(error))

    async def engine_infos(self) -> list[EngineInfo]:
        """The health of every engine. Asked at once: two that hang must not take twice as long to tell."""
        return list(await asyncio.gather(*[lane.info() for lane in self._lanes.values()]))

    async def models(self) -> dict[EngineName, list[ModelInfo]]:
        """The models of every engine that answers. Raises only if none does."""

        async def of(lane: EngineLane) -> list[ModelInfo] | CouncilError:
            try:
                return await lane.models()
            except CouncilError as error:
                return error

        answers = await asyncio.gather(*[of(lane) for lane in self._lanes.values()])
        listed = {
            name: answer
            for name, answer in zip(self._lanes, answers, strict=True)
            if not isinstance(answer, CouncilError)
        }
        if not listed:
            raise next(answer for answer in answers if isinstance(answer, CouncilError))
        return listed

    async def drain(self, timeout_s: float) -> None:
        """Admit nobody, let what runs end within `timeout_s`, then end the rest as `node_draining`."""
        self._draining = True
        for lane in self._lanes.values():
            lane.admission.drain()
        log.info("draining", calls=len(self._calls))
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            error = NodeDrainingError(f"node {self.name} stopped before the call ended")
            for call in list(self._calls):
                call.abort(error)
            await self._idle.wait()

    def _lane(self, engine: EngineName) -> EngineLane:
        lane = self._lanes.get(engine)
        if lane is None:
            raise EngineUnavailableError(
                f"node {self.name} has no {engine} engine; OLLAMA_BACKGROUND_BASE_URL there would give it one"
            )
        return lane
