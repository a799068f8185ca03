"""Plans and attempts for the tests of what is kept."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from common.usage import CallLatency, TokenUsage
from master.council.plan import AttemptRecord, Outcome, SessionPlan, seats_of

NOON = 1_760_000_000.0


def plan(question: str = "Why is the sky blue?", **changes: Any) -> SessionPlan:
    """A plan with two seats; every call is a new session of a new conversation."""
    values: dict[str, Any] = {
        "session_id": str(uuid4()),
        "conversation_id": str(uuid4()),
        "question": question,
        "seats": seats_of([("small:1b", None), ("small:1b", "sceptic")]),
        "chairman": "boss:3b",
        "options": {"temperature": 0.5},
        "contexts": {"small:1b": 8192},
        "created_at": NOON,
    }
    return SessionPlan(**{**values, **changes})


def running(agent_id: str = "agent_1", attempt: int = 1, **changes: Any) -> AttemptRecord:
    values: dict[str, Any] = {"run": 1, "stage": "opinions", "model": "small:1b", "node": "pc2"}
    values |= {"agent_id": agent_id, "attempt": attempt, "started_at": NOON + attempt}
    return AttemptRecord(**{**values, **changes})


def done(agent_id: str = "agent_1", attempt: int = 1, **changes: Any) -> AttemptRecord:
    values: dict[str, Any] = {
        "outcome": Outcome.DONE,
        "text": "Rayleigh scattering.",
        "thinking": "short waves scatter more",
        "done_reason": "stop",
        "token_usage": TokenUsage.of(31, 7),
        "latency": CallLatency(1.5, 20.25, 3.0, 40.125, 0.5, 30.0, 65.375, 174.4),
        "ended_at": NOON + 10 + attempt,
    }
    return running(agent_id, attempt, **{**values, **changes})


def snapshot(tokens: int = 38, duration_ms: float = 65.5) -> dict[str, Any]:
    """The part of an ended session's view that lists show."""
    return {
        "token_usage": {"total_tokens": tokens},
        "latency_stats": {"total_duration_ms": duration_ms},
    }
