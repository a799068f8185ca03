"""The shell that runs calls: lanes decide where and when, this streams them and starts them anew.

A call that fails at its node before its first token is tried on other nodes, at most `MAX_MOVES` times; after
the first token it is started anew once. A node that is stopping hands its call back, which counts as neither.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

from common import errors
from common.logs import bind, get_logger
from common.protocol import (
    FROZEN_AFTER_S,
    Channel,
    Delta,
    Done,
    Failed,
    GenerateRequest,
    Queued,
    Started,
    StreamMessage,
    Waiting,
)
from common.settings import MasterSettings
from common.usage import CallLatency, TokenUsage
from master.cluster.calls import Answer, AttemptFailure, Call, CallWatcher
from master.cluster.lanes import Assignment, LaneCall, Lanes
from master.cluster.registry import Node, Registry
from master.metrics import CALLS, CALLS_WAITING

MAX_MOVES = 3
MAX_HAND_BACKS = 20
_PREFIXES_KEPT = 4096
_TIMER_EARLY_S = 0.05  # a loop's clock stands still while it works: its timers may fire that much too early
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each part of a call may take, in seconds."""

    queue_s: float
    load_s: float
    first_token_s: float
    stall_s: float
    generation_s: float
    no_node_s: float = 15.0
    frozen_s: float = FROZEN_AFTER_S

    @classmethod
    def of(cls, settings: MasterSettings) -> Limits:
        return cls(
            settings.queue_timeout_s,
            settings.load_timeout_s,
            settings.first_token_timeout_s,
            settings.stall_timeout_s,
            settings.generation_timeout_s,
            settings.no_node_timeout_s,
        )


@dataclass(slots=True)
class _Attempt:
    """What is known of one attempt while it runs."""

    node: str
    submitted: float
    sent: float
    running: float | None = None
    first_token: float | None = None
    last_text: float | None = None
    phase: str = "queue"
    phase_since: float = 0.0
    answer: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    chunks: int = 0


class Dispatcher:
    """Every model call of the product goes through `run`."""

    def __init__(self, registry: Registry, limits: Limits, *, max_waiting: int) -> None:
        self.registry = registry
        self.lanes = Lanes(max_waiting=max_waiting)
        self._limits = limits
        self._waiters: dict[str, tuple[asyncio.Future[Assignment], CallWatcher]] = {}
        self._prefix_nodes: dict[str, str] = {}
        self._callers: set[asyncio.Task[Any]] = set()
        self._stopping = False
        registry.on_change = self.pump

    async def run(self, call: Call, watcher: CallWatcher) -> Answer:
        """Run one call to its end. Raises the error of its last attempt, or why it found no node."""
        caller = asyncio.current_task()
        if self._stopping or caller is None:
            raise _stopped()
        self._callers.add(caller)
        try:
            return await self._run(call, watcher)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            caller.uncancel()
            raise _stopped() from None
        finally:
            self._callers.discard(caller)

    def stop(self) -> None:
        """End every call that still runs, down to its engine: its caller hears that the master stops."""
        self._stopping = True
        for caller in self._callers:
            caller.cancel()

    async def _run(self, call: Call, watcher: CallWatcher) -> Answer:
        avoid: set[str] = set()
        moves = restarts = hand_backs = 0
        while True:
            submitted = time.monotonic()
            assignment = await self._slot(call, frozenset(avoid), watcher)
            attempt = _Attempt(assignment.node, submitted, time.monotonic())
            try:
                with bind(call_id=call.call_id, node=assignment.node):
                    return await self._attempt(call, assignment, attempt, watcher)
            except errors.CouncilError as error:
                again = isinstance(error, errors.RetryableError)
                if isinstance(error, errors.NodeDrainingError):
                    hand_backs += 1
                    again = hand_backs <= MAX_HAND_BACKS
                elif attempt.first_token is not None:
                    again = again and restarts < 1
                    restarts += 1
                else:
                    again = again and moves < MAX_MOVES
                    moves += 1
                elsewhere = self._elsewhere(call, avoid | {attempt.node})
                again = again or (isinstance(error, errors.ModelNotFoundError) and elsewhere)
                await watcher.attempt_failed(_failure(attempt, error), will_restart=again)
                CALLS.labels(model=call.model, outcome=error.code).inc()
                _log.info("attempt failed", node=attempt.node, model=call.model, code=error.code, again=again)
                if not again:
                    raise
                avoid.add(attempt.node)
                pause = 0.0 if elsewhere else min(0.2 * 2 ** (moves + restarts), 5.0)
            finally:
                self.lanes.release(call.call_id)
                self.pump()
            if pause:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def pump(self) -> None:
        """Hand free slots out and tell those who still wait where they stand."""
        for assignment in self.lanes.assign(self.registry.views()):
            future, _ = self._waiters[assignment.call_id]
            if future.done():
                self.lanes.release(assignment.call_id)
            else:
                self.registry.nodes[assignment.node].breaker.sent(time.monotonic())
                future.set_result(assignment)
        CALLS_WAITING.set(self.lanes.waiting)
        for call_id, position in self.lanes.positions().items():
            _, watcher = self._waiters[call_id]
            watcher.queued(position)

    def _elsewhere(self, call: Call, avoid: set[str]) -> bool:
        return any(node.name not in avoid for node in self.registry.nodes_with(call.model))

    async def _slot(self, call: Call, avoid: frozenset[str], watcher: CallWatcher) -> Assignment:
        future: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        prefix_node = self._prefix_nodes.get(call.prefix_key) if call.prefix_key else None
        self.lanes.submit(LaneCall(call.call_id, call.model, call.call_class, avoid, prefix_node))
        self._waiters[call.call_id] = (future, watcher)
        given_up = time.monotonic() + self._limits.queue_s
        homeless_since: float | None = None
        try:
            self.pump()
            while not future.done():
                now = time.monotonic()
                if self.registry.nodes_with(call.model):
                    homeless_since = None
                else:
                    homeless_since = homeless_since or now
                    if now - homeless_since >= self._limits.no_node_s:
                        raise self._no_node(call)
                if now >= given_up:
                    raise errors.QueueTimeoutError(
                        f"no slot for {call.model} became free in {self._limits.queue_s:g} s",
                        model=call.model,
                    )
                await asyncio.wait((future,), timeout=min(0.5, given_up - now))
            return future.result()
        except BaseException:
            future.cancel()
            self.lanes.withdraw(call.call_id)
            self.lanes.release(call.call_id)
            raise
        finally:
            del self._waiters[call.call_id]

    def _no_node(self, call: Call) -> errors.CouncilError:
        known = self.registry.nodes_with(call.model, answering=False)
        if known:
            names = ", ".join(node.name for node in known)
            return errors.NodeUnreachableError(
                f"every node that has {call.model} is gone ({names}); see `council worker list`",
                node=known[0].name,
                model=call.model,
            )
        return errors.ModelUnavailableError(
            f"no node has {call.model} any more; see `council models list`", model=call.model
        )

    async def _attempt(
        self, call: Call, assignment: Assignment, attempt: _Attempt, watcher: CallWatcher
    ) -> Answer:
        node = self.registry.nodes[assignment.node]
        await watcher.attempt_started(node.name)
        attempt.sent = attempt.phase_since = time.monotonic()
        request = GenerateRequest(
            model=assignment.model,
            messages=list(call.messages),
            format=call.format,
            options=dict(call.options),
            think=call.think,
            call_class=call.call_class,
            deadline_ms=round(
                (self._limits.queue_s + self._limits.load_s + self._limits.generation_s) * 1000
            ),
            request_id=call.call_id,
            traceparent=call.traceparent,
        )
        try:
            done = await self._stream(node, request, call, attempt, watcher)
        except errors.CouncilError as error:
            if error.node is None:
                error.node = node.name
            self._judge(node, error)
            raise
        except BaseException:
            node.breaker.returned()
            raise
        node.breaker.succeeded()
        CALLS.labels(model=call.model, outcome="done").inc()
        if call.prefix_key:
            self._remember_prefix(call.prefix_key, node.name)
        return Answer(
            node.name,
            "".join(attempt.answer),
            "".join(attempt.thinking),
            done.done_reason,
            done.token_usage,
            _latency(attempt, done),
        )

    async def _stream(
        self, node: Node, request: GenerateRequest, call: Call, attempt: _Attempt, watcher: CallWatcher
    ) -> Done:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.frozen_s + 5.0) as silence:
                async with node.client.generate(request, traceparent=call.traceparent) as reads:
                    async for messages in reads:
                        done = self._take(messages, attempt, node, watcher)
                        if done is not None:
                            return done
                        self._check_deadlines(call, attempt)
                        silence.reschedule(loop.time() + self._patience(attempt))
        except TimeoutError:
            self._check_deadlines(call, attempt, early_s=_TIMER_EARLY_S)
            raise errors.NodeFrozenError(
                f"{node.name} sent nothing for {self._limits.frozen_s:g} s", node=node.name, model=call.model
            ) from None
        raise errors.StreamCutError(
            f"the answer of {call.model} on {node.name} ended without its last message",
            node=node.name,
            model=call.model,
        )

    def _take(
        self, messages: list[StreamMessage], attempt: _Attempt, node: Node, watcher: CallWatcher
    ) -> Done | None:
        texts: dict[Channel, list[str]] = {}
        done: Done | None = None
        failed: Failed | None = None
        for message in messages:
            match message:
                case Delta(channel, text):
                    texts.setdefault(channel, []).append(text)
                case Started():
                    attempt.running = time.monotonic()
                    watcher.running(node.name)
                case Waiting(phase):
                    if phase != attempt.phase:
                        attempt.phase, attempt.phase_since = phase, time.monotonic()
                case Queued(position):
                    watcher.queued(position)
                case Done():
                    done = message
                case Failed():
                    failed = message
        if texts:
            now = time.monotonic()
            attempt.first_token = attempt.first_token or now
            attempt.last_text = now
            for channel, parts in texts.items():
                text = "".join(parts)
                attempt.chunks += len(parts)
                (attempt.answer if channel == "answer" else attempt.thinking).append(text)
                watcher.delta(channel, text)
        if failed is not None:
            raise errors.from_problem(failed.error, node=node.name)
        return done

    def _patience(self, attempt: _Attempt) -> float:
        """Seconds until the next thing to check, if nothing is read before."""
        now = time.monotonic()
        limits = self._limits
        left = limits.frozen_s
        if attempt.running is not None:
            left = min(left, attempt.running + limits.generation_s - now)
            if attempt.last_text is not None:
                left = min(left, attempt.last_text + limits.stall_s - now)
            else:
                left = min(left, attempt.running + limits.first_token_s - now)
        return max(left, 0.0)

    def _check_deadlines(self, call: Call, attempt: _Attempt, *, early_s: float = 0.0) -> None:
        """Raise where a deadline has passed, or passes within `early_s`."""
        now = time.monotonic() + early_s
        limits, node, model = self._limits, attempt.node, call.model
        if attempt.running is None:
            waited = now - attempt.phase_since
            if attempt.phase == "load" and waited >= limits.load_s:
                raise errors.LoadTimeoutError(
                    f"{node} needed more than {limits.load_s:g} s to load {model}", node=node, model=model
                )
            if attempt.phase == "queue" and waited >= limits.queue_s:
                raise errors.QueueTimeoutError(
                    f"no slot for {model} on {node} in {limits.queue_s:g} s", node=node, model=model
                )
            return
        if now - attempt.running >= limits.generation_s:
            raise errors.GenerationTimeoutError(
                f"{model} on {node} was not done after {limits.generation_s:g} s; raise GENERATION_TIMEOUT",
                node=node,
                model=model,
            )
        if attempt.last_text is None and now - attempt.running >= limits.first_token_s:
            raise errors.FirstTokenTimeoutError(
                f"{model} on {node} wrote nothing in {limits.first_token_s:g} s", node=node, model=model
            )
        if attempt.last_text is not None and now - attempt.last_text >= limits.stall_s:
            raise errors.StallTimeoutError(
                f"{model} on {node} stopped writing for {limits.stall_s:g} s", node=node, model=model
            )

    def _judge(self, node: Node, error: errors.CouncilError) -> None:
        """Count a failure against its node only where the node is to blame."""
        # A model that does not fit or load there says nothing of the others.
        blameless = isinstance(
            error, errors.NodeDrainingError | errors.OutOfMemoryError | errors.LoadTimeoutError
        )
        if blameless or not isinstance(error, errors.RetryableError):
            node.breaker.returned()
        else:
            node.breaker.failed(time.monotonic())

    def _remember_prefix(self, key: str, node: str) -> None:
        self._prefix_nodes.pop(key, None)
        self._prefix_nodes[key] = node
        if len(self._prefix_nodes) > _PREFIXES_KEPT:
            del self._prefix_nodes[next(iter(self._prefix_nodes))]


def _stopped() -> errors.NodeDrainingError:
    return errors.NodeDrainingError("the master is stopping; ask again when it is back", retry_after_s=5.0)


def _ms(seconds: float) -> float:
    return round(max(seconds, 0.0) * 1000, 3)


def _latency(attempt: _Attempt, done: Done) -> CallLatency:
    """Join the node's split with what the master saw: its own queue, and the network as the rest."""
    at_node = done.latency
    total = _ms(time.monotonic() - attempt.submitted)
    queue = round(at_node.queue_ms + _ms(attempt.sent - attempt.submitted), 3)
    known = queue + at_node.load_ms + at_node.prompt_ms + at_node.generate_ms
    first = attempt.first_token
    return CallLatency(
        queue_ms=queue,
        load_ms=at_node.load_ms,
        prompt_ms=at_node.prompt_ms,
        generate_ms=at_node.generate_ms,
        network_ms=round(max(total - known, 0.0), 3),
        first_token_ms=_ms(first - attempt.submitted) if first is not None else 0.0,
        total_ms=total,
        tokens_per_second=at_node.tokens_per_second,
    )


def _failure(attempt: _Attempt, error: errors.CouncilError) -> AttemptFailure:
    """What a failed attempt cost, as far as it was seen: one token per delta is the engines' habit."""
    now = time.monotonic()
    running, first = attempt.running, attempt.first_token
    latency = CallLatency(
        queue_ms=_ms(attempt.sent - attempt.submitted),
        generate_ms=_ms(now - first) if first is not None else 0.0,
        prompt_ms=_ms((first or now) - running) if running is not None else 0.0,
        first_token_ms=_ms(first - attempt.submitted) if first is not None else 0.0,
        total_ms=_ms(now - attempt.submitted),
    )
    return AttemptFailure(
        attempt.node,
        error,
        "".join(attempt.answer),
        "".join(attempt.thinking),
        TokenUsage.of(0, attempt.chunks),
        latency,
    )
