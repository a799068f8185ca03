"""One attempt of a call at its node: the stream, its deadlines, and where its time went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common import errors
from common.logs import get_logger
from common.master_settings import MasterSettings
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
from common.usage import CallLatency, TokenUsage
from master.cluster.calls import AttemptFailure, CallWatcher
from master.cluster.registry import Node
from master.cluster.speeds import Sample

_log = get_logger(__name__)
_TIMER_LATE_S = 0.25
_TIMER_EARLY_S = 0.05  # a loop's clock stands still while it works: its timers may fire that much too early


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

    @property
    def total_s(self) -> float:
        """All that one attempt may take: after as long a call that failed is not tried again."""
        return self.queue_s + self.load_s + self.generation_s

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
class Attempt:
    """What is known of one attempt while it runs. `preempt` ends it from outside, on the same loop."""

    node: str
    model: str
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
    preempted: bool = False
    asked: bool = False  # the request is on its way
    _next_look: float = 0.0  # at the deadlines, on the loop's clock
    _silence: asyncio.Timeout | None = None

    @property
    def loads_on(self) -> bool:
        """Whether a load that it waits for goes on at the node when it is left now."""
        return self.asked and self.running is None

    def preempt(self) -> None:
        """Close the stream down to the engine; `stream` then raises `PreemptedError`."""
        self.preempted = True
        if self._silence is not None and not self._silence.expired():  # else it ends by itself
            self._silence.reschedule(asyncio.get_running_loop().time())

    async def evict(self, node: Node, model: str, engine: str) -> None:
        """Make room on purpose: left to itself an engine may throw out a model that is needed next.

        Ends at once where the attempt is pre-empted meanwhile; the node goes on with it.
        """
        self._check_preempted()
        try:
            async with asyncio.timeout(None) as self._silence:
                await node.client.unload(model, engine)
        except TimeoutError:
            self._check_preempted()
            raise
        except errors.CouncilError as error:
            _log.info("not unloaded", node=node.name, model=model, code=error.code)
        finally:
            self._silence = None

    async def stream(
        self,
        node: Node,
        request: GenerateRequest,
        watcher: CallWatcher,
        limits: Limits,
        on_running: Callable[[], None],
    ) -> Done:
        """Run the call to its last message. Raises the error that ended it."""
        loop = asyncio.get_running_loop()
        self._check_preempted()
        body, uploads = node.client.written(request), node.client.uploads
        silence = asyncio.timeout(limits.frozen_s)
        try:
            async with silence:
                self._silence = silence
                uploads.begin(silence, len(body))
                self.asked = True
                async with await node.client.generate(body, traceparent=request.traceparent) as answer:
                    uploads.end(silence)
                    while messages := await answer.read():
                        done = await self._take(messages, node, watcher, on_running)
                        if done is not None:
                            return done
                        self._check_preempted()
                        if (now := loop.time()) >= self._next_look:
                            if self.last_text is not None:
                                node.wrote_at[request.engine] = self.last_text
                            self._check_deadlines(limits)
                            self._next_look = self._move(silence, now, self._patience(limits))
        except TimeoutError:
            self._check_preempted()
            self._check_deadlines(limits, early_s=_TIMER_EARLY_S)
            raise errors.NodeFrozenError(
                f"{node.name} sent nothing for {limits.frozen_s:g} s", node=node.name, model=self.model
            ) from None
        finally:
            self._silence = None
            uploads.end(silence)
        raise errors.StreamCutError(
            f"the answer of {self.model} on {node.name} ended without its last message",
            node=node.name,
            model=self.model,
        )

    def _move(self, silence: asyncio.Timeout, now: float, patience_s: float) -> float:
        """Let the timer fire after that time, or a little later: moving it at each read costs too much.

        Returns until when what is read changes nothing of that.
        """
        due, slack_s = now + patience_s, min(patience_s / 10, _TIMER_LATE_S)
        if not due <= (silence.when() or 0.0) <= due + slack_s:
            silence.reschedule(due + slack_s)
        return now + max((silence.when() or 0.0) - due, 0.0)

    def _check_preempted(self) -> None:
        if self.preempted:
            raise errors.PreemptedError(
                f"interactive work needs the engine of {self.node}; the call runs again",
                node=self.node,
                model=self.model,
            )

    async def _take(
        self,
        messages: list[StreamMessage],
        node: Node,
        watcher: CallWatcher,
        on_running: Callable[[], None],
    ) -> Done | None:
        if len(messages) == 1 and self.last_text is not None and type(only := messages[0]) is Delta:
            await self._text(only.channel, [only.text], watcher)  # as nearly every read of a long answer
            return None
        texts: dict[Channel, list[str]] = {}
        done: Done | None = None
        failed: Failed | None = None
        for message in messages:
            match message:
                case Delta(channel, text):
                    texts.setdefault(channel, []).append(text)
                case Started():
                    self.running, self._next_look = time.monotonic(), 0.0
                    on_running()
                    watcher.running(node.name)
                case Waiting(phase):
                    if phase != self.phase:
                        self.phase, self.phase_since, self._next_look = phase, time.monotonic(), 0.0
                case Queued(position):
                    watcher.queued(position)
                case Done():
                    done = message
                case Failed():
                    failed = message
        if texts and self.first_token is None:
            self.first_token, self._next_look = time.monotonic(), 0.0
        for channel, parts in texts.items():
            await self._text(channel, parts, watcher)
        if failed is not None:
            raise errors.from_problem(failed.error, node=node.name)
        return done

    async def _text(self, channel: Channel, parts: list[str], watcher: CallWatcher) -> None:
        self.last_text = time.monotonic()
        self.chunks += len(parts)
        text = parts[0] if len(parts) == 1 else "".join(parts)
        (self.answer if channel == "answer" else self.thinking).append(text)
        await watcher.delta(channel, text)

    def _patience(self, limits: Limits) -> float:
        """Seconds until the next thing to check, if nothing is read before."""
        now = time.monotonic()
        left = limits.frozen_s
        if self.running is not None:
            left = min(left, self.running + limits.generation_s - now)
            if self.last_text is not None:
                left = min(left, self.last_text + limits.stall_s - now)
            else:
                left = min(left, self.running + limits.first_token_s - now)
        return max(left, 0.0)

    def _check_deadlines(self, limits: Limits, *, early_s: float = 0.0) -> None:
        """Raise where a deadline has passed, or passes within `early_s`."""
        now = time.monotonic() + early_s
        node, model = self.node, self.model
        if self.running is None:
            waited = now - self.phase_since
            if self.phase == "load" and waited >= limits.load_s:
                raise errors.LoadTimeoutError(
                    f"{node} needed more than {limits.load_s:g} s to load {model}", node=node, model=model
                )
            if self.phase == "queue" and waited >= limits.queue_s:
                raise errors.QueueTimeoutError(
                    f"no slot for {model} on {node} in {limits.queue_s:g} s", node=node, model=model
                )
            return
        if now - self.running >= limits.generation_s:
            raise errors.GenerationTimeoutError(
                f"{model} on {node} was not done after {limits.generation_s:g} s; raise GENERATION_TIMEOUT",
                node=node,
                model=model,
            )
        if self.last_text is None and now - self.running >= limits.first_token_s:
            raise errors.FirstTokenTimeoutError(
                f"{model} on {node} wrote nothing in {limits.first_token_s:g} s", node=node, model=model
            )
        if self.last_text is not None and now - self.last_text >= limits.stall_s:
            raise errors.StallTimeoutError(
                f"{model} on {node} stopped writing for {limits.stall_s:g} s", node=node, model=model
            )

    # -- what it left ---------------------------------------------------------------------------------------

    def latency(self, done: Done) -> CallLatency:
        """Join the node's split with what the master saw: its own queue, and the network as the rest."""
        at_node = done.latency
        total = _ms(time.monotonic() - self.submitted)
        queue = round(at_node.queue_ms + _ms(self.sent - self.submitted), 3)
        known = queue + at_node.load_ms + at_node.prompt_ms + at_node.generate_ms
        first = self.first_token
        return CallLatency(
            queue_ms=queue,
            load_ms=at_node.load_ms,
            prompt_ms=at_node.prompt_ms,
            generate_ms=at_node.generate_ms,
            network_ms=round(max(total - known, 0.0), 3),
            first_token_ms=_ms(first - self.submitted) if first is not None else 0.0,
            total_ms=total,
            tokens_per_second=at_node.tokens_per_second,
        )

    def failure(self, error: errors.CouncilError) -> AttemptFailure:
        """What a failed attempt cost, as far as it was seen: one token per delta is the engines' habit."""
        now = time.monotonic()
        running, first = self.running, self.first_token
        latency = CallLatency(
            queue_ms=_ms(self.sent - self.submitted),
            generate_ms=_ms(now - first) if first is not None else 0.0,
            prompt_ms=_ms((first or now) - running) if running is not None else 0.0,
            first_token_ms=_ms(first - self.submitted) if first is not None else 0.0,
            total_ms=_ms(now - self.submitted),
        )
        return AttemptFailure(
            self.node,
            error,
            "".join(self.answer),
            "".join(self.thinking),
            TokenUsage.of(0, self.chunks),
            latency,
        )


def sample(done: Done) -> Sample:
    """What the speeds learn from a call that ended well."""
    at_node = done.latency
    return Sample(
        done.token_usage.prompt_tokens,
        done.token_usage.completion_tokens,
        at_node.load_ms / 1000,
        at_node.prompt_ms / 1000,
        at_node.generate_ms / 1000,
    )


def _ms(seconds: float) -> float:
    return round(max(seconds, 0.0) * 1000, 3)
