"""One model call on the node: admission, residency, stream, and where its time went."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from common.errors import (
    CancelledCallError,
    CouncilError,
    GenerationTimeoutError,
    InternalError,
    LoadTimeoutError,
    ModelNotFoundError,
    QueueTimeoutError,
    RetryableError,
    StreamCutError,
)
from common.logs import get_logger
from common.protocol import (
    Channel,
    Delta,
    Done,
    GenerateRequest,
    GenerateResponse,
    ModelInfo,
    Phase,
    Queued,
    Started,
)
from common.usage import CallLatency
from worker_node.admission_shell import Ticket
from worker_node.engine_lane import EngineLane
from worker_node.engines.base import EngineEvent, Finished, Text
from worker_node.metrics import NodeMetrics

log = get_logger(__name__)
_plain_log = logging.getLogger(__name__)

# Ollama calls it loading when it hands a call a model that is loaded, too: 1 to 100 ms.
_LEAST_LOAD_MS = 200.0

CallMessage = Queued | Started | Delta | Done


class Emit(Protocol):
    """Takes messages of a call in their order; those of one call of it may travel together."""

    async def __call__(self, *messages: CallMessage) -> None: ...


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The node's own limits in seconds; the caller's `deadline_ms` may be shorter."""

    queue_timeout_s: float = 600.0
    load_timeout_s: float = 300.0


class CallHost(Protocol):
    """Who runs calls: it is told of each that begins and ends, and counts them."""

    metrics: NodeMetrics

    def enter(self, call: Call) -> None: ...

    def leave(self, call: Call) -> None: ...


class Call:
    """A checked call, ready to run once: await `run` or `response`.

    `phase` is where it is, for whoever sends heartbeats.
    """

    def __init__(
        self,
        host: CallHost,
        lane: EngineLane,
        model: ModelInfo,
        request: GenerateRequest,
        *,
        received: float,
        limits: CallLimits,
    ) -> None:
        self.request = request
        self.phase: Phase = "queue"
        self._host = host
        self._lane = lane
        self.model = model
        self._limits = limits
        self._received = received
        self._deadline = None if request.deadline_ms is None else received + request.deadline_ms / 1000
        self._task: asyncio.Task[object] | None = None
        self._abort: CouncilError | None = None
        self._events: AsyncIterator[EngineEvent] | None = None

    def abort(self, error: CouncilError) -> None:
        """End the running call with an error of the node's choice."""
        if self._abort is None and self._task is not None:
            self._abort = error
            self._task.cancel()

    async def response(self) -> GenerateResponse:
        """Run to the end and return all at once. Raises the `CouncilError` that ended it."""
        texts: dict[Channel, list[str]] = {"answer": [], "thinking": []}
        done: list[Done] = []

        async def collect(*messages: CallMessage) -> None:
            for message in messages:
                if type(message) is Delta:
                    texts[message.channel].append(message.text)
                elif type(message) is Done:
                    done.append(message)

        await self.run(collect)
        text, thinking, end = "".join(texts["answer"]), "".join(texts["thinking"]), done[0]
        return GenerateResponse(text, thinking, end.done_reason, end.token_usage, end.latency)

    async def run(self, emit: Emit) -> None:
        """Run the call, handing each message to `emit`; the last one is `Done`.

        Raises the `CouncilError` that ended it; before the first message it is one that became clear before
        the call took its place. Cancelling the task cancels the call in the engine.
        """
        self._task = asyncio.current_task()
        self._host.enter(self)
        outcome = InternalError.code
        self._clock_offset = asyncio.get_running_loop().time() - time.monotonic()
        limit = asyncio.timeout_at(None)
        try:
            async with limit:
                *rest, done = await self._run(emit, limit)
            outcome = "ok"
            self._record(done)
            await emit(*rest, done)
        except CouncilError as error:
            outcome = error.code
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise
            late = self._too_late()
            outcome = late.code
            raise late from error
        except asyncio.CancelledError:
            outcome = CancelledCallError.code
            if self._abort is None:
                raise
            if self._task is not None:
                self._task.uncancel()
            outcome = self._abort.code
            raise self._abort from None
        finally:
            self._host.leave(self)
            if outcome != "ok":
                self._host.metrics.ended(self.request.engine, self.model.name, outcome)
                log.info("call ended", model=self.model.name, outcome=outcome, phase=self.phase)
            await self._close_events()

    async def _run(self, emit: Emit, limit: asyncio.Timeout) -> tuple[*tuple[Delta, ...], Done]:
        """Hold a slot until the engine is done. What is left to send, the last message at its end."""
        lane, model = self._lane, self.model
        ticket = lane.admission.arrive(
            model.name,
            self.request.call_class,
            lane.slots(model),
            on_preempt=self.abort if self.request.yields else None,
        )
        try:
            if not ticket.admitted:
                limit.reschedule(self._phase_end(self._limits.queue_timeout_s))
            while not ticket.admitted:
                await emit(Queued(ticket.position))
                await ticket.changed()
            waited_ms = (ticket.admitted_at - self._received) * 1000
            load_ms = 0.0
            if not lane.catalog.is_resident(model):
                self.phase = "load"
                limit.reschedule(self._phase_end(self._limits.load_timeout_s))
                load_ms = await lane.load(model.name)
            self.phase = "prompt"
            limit.reschedule(self._phase_end(None))
            await emit(Started())
            began = time.monotonic()
            rest, finished, first = await self._stream(emit, ticket)
            lane.catalog.note_use(model.name)
            latency = self._latency(finished, waited_ms, load_ms, began, first)
            return *rest, Done(finished.done_reason, finished.token_usage, latency)
        except (RetryableError, ModelNotFoundError):
            if ticket.admitted:
                # What was believed of the model may be what went wrong.
                lane.catalog.forget_residency()
            raise
        finally:
            lane.admission.leave(ticket)

    async def _stream(self, emit: Emit, ticket: Ticket) -> tuple[list[Delta], Finished, float | None]:
        """The texts that came with the end, the engine's account, and when its first text came."""
        first: float | None = None
        rest: list[Delta] = []
        account: Finished | None = None
        self._lane.begins(ticket)
        self._events = self._lane.engine.generate(self.request)
        try:
            async for event in self._events:
                if type(event) is Finished:
                    account = event
                    return rest, account, first
                if type(event) is Text:
                    if first is None:
                        first = time.monotonic()
                    delta = Delta(event.channel, event.text)
                    if event.ends:
                        rest.append(delta)
                    else:
                        await emit(delta)
        except BaseException:
            await self._close_events()  # before the slot is free: the engine still generates
            raise
        finally:
            self._lane.ends(ticket, self.model, account)
        raise StreamCutError("the engine's answer ended without its last message", model=self.model.name)

    async def _close_events(self) -> None:
        """An iterator that is not closed keeps the engine generating for nobody, or loses its connection."""
        events, self._events = self._events, None
        if isinstance(events, AsyncGenerator):
            await events.aclose()

    def _latency(
        self, finished: Finished, waited_ms: float, load_ms: float, began: float, first: float | None
    ) -> CallLatency:
        """The engine's own figures where it has them, ours where it does not."""
        ended = time.monotonic()
        text_began = ended if first is None else first
        prompt_ms = finished.prompt_ms
        if prompt_ms is None:
            prompt_ms = (text_began - began) * 1000
        generate_ms = finished.generate_ms
        if generate_ms is None:
            generate_ms = (ended - text_began) * 1000
        queue_ms = max(0.0, waited_ms) + (finished.queue_ms or 0.0)
        engine_load_ms = finished.load_ms or 0.0
        if load_ms or engine_load_ms >= _LEAST_LOAD_MS:
            load_ms += engine_load_ms
        else:
            queue_ms += engine_load_ms
        tokens = finished.token_usage.completion_tokens
        return CallLatency(
            queue_ms=round(queue_ms, 3),
            load_ms=round(load_ms, 3),
            prompt_ms=round(prompt_ms, 3),
            generate_ms=round(generate_ms, 3),
            network_ms=0.0,
            first_token_ms=round((text_began - self._received) * 1000, 3),
            total_ms=round((ended - self._received) * 1000, 3),
            tokens_per_second=round(tokens * 1000 / generate_ms, 2) if generate_ms > 0 else 0.0,
        )

    def _phase_end(self, phase_s: float | None) -> float | None:
        """When the phase that begins now must be over, on the loop's clock."""
        ends = []
        if phase_s is not None:
            ends.append(time.monotonic() + phase_s)
        if self._deadline is not None:
            ends.append(self._deadline)
        return min(ends) + self._clock_offset if ends else None

    def _too_late(self) -> CouncilError:
        waited_s = time.monotonic() - self._received
        name = self.model.name
        if self.phase == "queue":
            return QueueTimeoutError(f"no slot of {name} was free for {waited_s:.1f} s", model=name)
        if self.phase == "load":
            return LoadTimeoutError(f"{name} was not loaded after {waited_s:.1f} s; it loads on", model=name)
        return GenerationTimeoutError(f"{name} had not ended after {waited_s:.1f} s", model=name)

    def _record(self, done: Done) -> None:
        self._host.metrics.done(self.request.engine, self.model.name, done)
        # Not at level info: this line alone took a tenth of the node's work for a short call.
        if not _plain_log.isEnabledFor(logging.DEBUG):
            return
        log.debug(
            "call done",
            model=self.model.name,
            done_reason=done.done_reason,
            completion_tokens=done.token_usage.completion_tokens,
            queue_ms=done.latency.queue_ms,
            first_token_ms=done.latency.first_token_ms,
            total_ms=done.latency.total_ms,
        )
