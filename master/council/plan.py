"""What a council session is asked to do, and what each attempt of a call left behind.

Plain frozen dataclasses: the plan is stored in one database column (`to_json`, `from_json`), an
`AttemptRecord` is one row. Times are epoch seconds; this package reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from common.usage import CallLatency, StageName, TokenUsage

CHAIRMAN = "chairman"
DEFAULT_CONTEXT = 4096  # tokens of a slot whose node did not tell: what an engine gives at the least


class Outcome(StrEnum):
    """How an attempt ended.

    `restarted` (its node failed, the dispatcher runs the same call elsewhere as the next attempt),
    `interrupted` (the master was killed while it ran; its usage is unknown) and `cancelled` (with its
    session) decide nothing, but they count for usage and for attempt numbers.
    """

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    RESTARTED = "restarted"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Seat:
    """One agent of the council. The same model may sit twice: the seat is told apart by `agent_id`."""

    agent_id: str
    model: str
    persona: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier question of the conversation and its final answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Everything that a session decides from, fixed when it is asked.

    `contexts` are the tokens that one slot of each model holds (prompt and answer); `options` are the user's
    sampling options, for opinions and synthesis only; `history` is oldest first.
    """

    session_id: str
    conversation_id: str
    question: str
    seats: tuple[Seat, ...]
    chairman: str
    chairman_fallbacks: tuple[str, ...] = ()
    quorum: int = 1
    history: tuple[Turn, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    contexts: Mapping[str, int] = field(default_factory=dict)
    created_at: float = 0.0
    practice: bool = False

    def seat(self, agent_id: str) -> Seat | None:
        return next((seat for seat in self.seats if seat.agent_id == agent_id), None)

    def context(self, model: str) -> int:
        return self.contexts.get(model, DEFAULT_CONTEXT)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON types from which `from_json` rebuilds the same plan."""
        plan = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plan["seats"] = [asdict(seat) for seat in self.seats]
        plan["history"] = [asdict(turn) for turn in self.history]
        plan["chairman_fallbacks"] = list(self.chairman_fallbacks)
        plan["options"] = dict(self.options)
        plan["contexts"] = dict(self.contexts)
        return plan

    @classmethod
    def from_json(cls, plan: Mapping[str, Any]) -> SessionPlan:
        """Rebuild a plan; keys of a newer version are ignored. Raises `KeyError` where one is missing."""
        known = {name: plan[name] for name in cls.__dataclass_fields__ if name in plan}
        known["seats"] = tuple(Seat(**seat) for seat in plan["seats"])
        known["history"] = tuple(Turn(**turn) for turn in plan.get("history", ()))
        known["chairman_fallbacks"] = tuple(plan.get("chairman_fallbacks", ()))
        return cls(**known)


def seats_of(models: list[tuple[str, str | None]]) -> tuple[Seat, ...]:
    """Seats `agent_1`, `agent_2`, … for (model, persona) pairs, in the order chosen."""
    return tuple(Seat(f"agent_{number}", model, persona) for number, (model, persona) in enumerate(models, 1))


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt of one call: a row under (session, run, stage, agent, attempt); attempts start at 1.

    `error` is a problem (`common.errors`) where the outcome is `failed`; `ended_at` is `None` while it runs.
    """

    run: int
    stage: StageName
    agent_id: str
    attempt: int
    model: str
    node: str | None = None
    outcome: Outcome = Outcome.RUNNING
    text: str = ""
    thinking: str = ""
    done_reason: str | None = None
    error: dict[str, Any] | None = None
    token_usage: TokenUsage = field(default_factory=TokenUsage)
    usage_unknown: bool = False
    latency: CallLatency = field(default_factory=CallLatency)
    started_at: float = 0.0
    ended_at: float | None = None

    @property
    def key(self) -> tuple[int, StageName, str]:
        return (self.run, self.stage, self.agent_id)

    @property
    def error_code(self) -> str | None:
        return None if self.error is None else str(self.error.get("code"))
