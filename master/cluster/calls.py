"""One model call, as services ask for it, and what they hear while it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from common.errors import CouncilError
from common.protocol import CallClass, Channel, EngineName, Message, ThinkLevel
from common.usage import CallLatency, TokenUsage


@dataclass(frozen=True, slots=True)
class Call:
    """What to generate. `prefix_key` names the shared opening of the prompt: equal keys like one node.
    `conversation_key` names what the turns of a conversation share of it, all but the last message of each:
    where nobody has read the prefix yet, a turn likes the node of the turn before.

    `keeps` are models that its session needs next, which are better not evicted for this call. `no_node_s`:
    how long it waits while no node has the model on this engine, in seconds; as the settings say when `None`.
    `avoid` are nodes that it leaves alone while another one has the model. `let_in`: its session was let in
    when there was room, so that it waits however long the queue is by now.
    """

    call_id: str
    model: str
    messages: tuple[Message, ...]
    format: Literal["json"] | dict[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    think: ThinkLevel | None = None
    call_class: CallClass = "interactive"
    session_id: str | None = None
    prefix_key: str | None = None
    conversation_key: str | None = None
    expected_tokens: int = 256
    keeps: frozenset[str] = frozenset()
    traceparent: str | None = None
    engine: EngineName = "main"
    no_node_s: float | None = None
    avoid: frozenset[str] = frozenset()
    let_in: bool = False


def conversation_key(messages: Iterable[Message]) -> str:
    """Of the opening that every later turn of a conversation repeats: up to the first message of a user."""
    opening = hashlib.sha256()
    for message in messages:
        opening.update(f"{message.role}:{message.content}\0".encode("utf-8", "replace"))
        if message.role == "user":
            break
    return opening.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answer:
    """A call that ended well: its whole text, the engine's counts, and where the time went.

    `model` is the name that the engine was asked by; `practice`: its text has no meaning.
    """

    node: str
    text: str
    thinking: str
    done_reason: str
    token_usage: TokenUsage
    latency: CallLatency
    model: str = ""
    practice: bool = False
    engine: EngineName = "main"


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """One attempt that ended badly. `token_usage` is what was counted of it until then."""

    node: str
    error: CouncilError
    text: str
    thinking: str
    token_usage: TokenUsage
    latency: CallLatency


class CallWatcher(Protocol):
    """What a service hears of its call, in this order and on the loop's thread.

    `attempt_started` and `attempt_failed` are awaited, so that a service can commit its row before the
    request leaves and before the next attempt. `delta` is awaited with each read, and must wait for nobody:
    the call holds its slot meanwhile. `estimate_s`: seconds until the call is expected to start, where there
    is a guess.
    """

    def queued(self, position: int, estimate_s: float | None = None) -> None: ...

    async def attempt_started(self, node: str) -> None: ...

    def running(self, node: str) -> None: ...

    async def delta(self, channel: Channel, text: str) -> None: ...

    async def attempt_failed(self, failure: AttemptFailure, *, will_restart: bool) -> None: ...


class SilentWatcher:
    """For a caller that only wants the answer."""

    def queued(self, position: int, estimate_s: float | None = None) -> None:
        del position, estimate_s

    async def attempt_started(self, node: str) -> None:
        del node

    def running(self, node: str) -> None:
        del node

    async def delta(self, channel: Channel, text: str) -> None:
        del channel, text

    async def attempt_failed(self, failure: AttemptFailure, *, will_restart: bool) -> None:
        del failure, will_restart
