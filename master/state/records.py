"""A session as it is kept, and the one place where attempts become rows and rows become attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from common.usage import CallLatency, TokenUsage
from master.council.plan import AttemptRecord, Outcome, SessionPlan

# More than any model here can write in GENERATION_TIMEOUT; a run-away stream must not fill the disk.
MOST_TEXT_CHARS = 4 * 1024 * 1024
_MOST_REASON_CHARS = 64
_LATENCIES = tuple(CallLatency.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """All that a session is rebuilt from. `seq_head`: event numbers up to here may have been used."""

    plan: SessionPlan
    state: str
    result: str | None
    records: tuple[AttemptRecord, ...]
    retries: tuple[tuple[int, str], ...]
    cancelled: bool
    error: dict[str, Any] | None
    seq_head: int
    created_at: datetime
    completed_at: datetime | None
    snapshot: dict[str, Any] | None
    cached: bool


def key_of(session_id: str, record: AttemptRecord) -> dict[str, Any]:
    """The columns that tell an attempt apart."""
    return {
        "session_id": session_id,
        "run": record.run,
        "stage": record.stage,
        "agent_id": record.agent_id,
        "attempt": record.attempt,
    }


def values_of(record: AttemptRecord) -> dict[str, Any]:
    """The other columns of an attempt."""
    return {
        "model": record.model,
        "node": record.node,
        "outcome": record.outcome.value,
        "text": record.text[:MOST_TEXT_CHARS],
        "thinking": record.thinking[:MOST_TEXT_CHARS],
        "done_reason": record.done_reason and record.done_reason[:_MOST_REASON_CHARS],
        "error": record.error,
        "prompt_tokens": record.token_usage.prompt_tokens,
        "completion_tokens": record.token_usage.completion_tokens,
        "usage_unknown": record.usage_unknown,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        **{name: getattr(record.latency, name) for name in _LATENCIES},
    }


def attempt_record(row: Mapping[str, Any]) -> AttemptRecord:
    """An attempt from the columns of its row."""
    return AttemptRecord(
        run=row["run"],
        stage=row["stage"],
        agent_id=row["agent_id"],
        attempt=row["attempt"],
        model=row["model"],
        node=row["node"],
        outcome=Outcome(row["outcome"]),
        text=row["text"],
        thinking=row["thinking"],
        done_reason=row["done_reason"],
        error=row["error"],
        token_usage=TokenUsage.of(row["prompt_tokens"], row["completion_tokens"]),
        usage_unknown=row["usage_unknown"],
        latency=CallLatency(**{name: row[name] for name in _LATENCIES}),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
    )
