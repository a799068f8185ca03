"""A call as the lanes see it, and what they decide about it: what goes in and what comes out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.protocol import CallClass, EngineName
from master.cluster.fair_queue import Ticket
from master.cluster.placement import Work


@dataclass(slots=True, eq=False)
class LaneCall:
    """A call as the lanes see it. `deadline`: monotonic seconds until which it may wait.

    `avoid`: nodes by name, and until when it leaves each alone where another one has the model. `keeps` are
    models that its session needs next: they are not evicted for it where another can be.
    `opening_tokens` are those that an earlier turn of its conversation may have left in an engine.
    `let_in`: it was promised a place, and waits however long the queue is.
    """

    call_id: str
    model: str
    call_class: CallClass = "interactive"
    avoid: Mapping[str, float] = field(default_factory=dict)
    session_id: str | None = None
    prefix_key: str | None = None
    conversation_key: str | None = None
    prompt_tokens: float = 400.0
    opening_tokens: float = 0.0
    expected_tokens: float = 256.0
    engine: EngineName = "main"
    deadline: float = float("inf")
    keeps: frozenset[str] = frozenset()
    let_in: bool = False
    submitted: float = 0.0
    held_since: float | None = None  # since when it could have gone where it would end later
    aged: bool = False
    ticket: Ticket | None = None
    lane: CallClass = field(init=False)  # whose queue it waits in

    def __post_init__(self) -> None:
        self.lane = self.call_class

    def age(self) -> None:
        """It has waited so long that it counts as interactive from now on."""
        self.aged, self.lane = True, "interactive"

    @property
    def work(self) -> Work:
        return (self.prompt_tokens, self.expected_tokens)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The call holds a slot of `model` (its name there) on `node` until it is released or requeued.

    `evict` names a model that has to leave the engine first; `loads`: this call brings the model in.
    """

    call_id: str
    node: str
    model: str
    engine: EngineName = "main"
    loads: bool = False
    evict: str | None = None


@dataclass(frozen=True, slots=True)
class Preempt:
    """Close the call's stream down to the engine, then `requeue` it."""

    call_id: str


@dataclass(frozen=True, slots=True)
class Expired:
    """The call waited until its deadline and is forgotten."""

    call_id: str


Effect = Assignment | Preempt | Expired
