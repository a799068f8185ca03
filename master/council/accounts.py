"""Tokens and latency of a session: sums over all attempts of all runs, whatever became of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from common.usage import (
    STAGES,
    AgentLatency,
    SessionLatencyStats,
    SessionTokenUsage,
    StageLatencyStats,
    StageName,
    StageTokenUsage,
    session_latency_stats,
    session_token_usage,
    stage_token_usage,
    sum_latencies,
)
from master.council.plan import AttemptRecord


def attempt_latency(record: AttemptRecord) -> AgentLatency:
    return AgentLatency(node=record.node, **asdict(record.latency))


def stage_usage(stage: StageName, records: Iterable[AttemptRecord]) -> StageTokenUsage:
    """The tokens of one stage, also those of failed and restarted attempts."""
    return stage_token_usage(stage, ((one.model, one.token_usage) for one in records if one.stage == stage))


def stage_latency(stage: StageName, records: Sequence[AttemptRecord]) -> StageLatencyStats:
    """Wall time of the stage, from its first start to its last end within a run, summed over the runs."""
    ours = [one for one in records if one.stage == stage]
    spans: dict[int, tuple[float, float]] = {}
    by_agent: dict[str, list[AttemptRecord]] = {}
    for one in ours:
        ended = one.started_at if one.ended_at is None else one.ended_at
        start, end = spans.get(one.run, (one.started_at, ended))
        spans[one.run] = (min(start, one.started_at), max(end, ended))
        by_agent.setdefault(one.agent_id, []).append(one)
    return StageLatencyStats(
        stage=stage,
        duration_ms=round(sum(max(0.0, end - start) for start, end in spans.values()) * 1000.0, 3),
        by_agent={
            agent: sum_latencies(attempts[-1].node, [one.latency for one in attempts])
            for agent, attempts in sorted(by_agent.items(), key=lambda item: (len(item[0]), item[0]))
        },
    )


def session_usage(records: Sequence[AttemptRecord]) -> SessionTokenUsage:
    """A stage without an attempt did not run and is `None`."""
    return session_token_usage({stage: stage_usage(stage, records) for stage in _ran(records)})


def session_latency(records: Sequence[AttemptRecord]) -> SessionLatencyStats:
    return session_latency_stats({stage: stage_latency(stage, records) for stage in _ran(records)})


def _ran(records: Sequence[AttemptRecord]) -> list[StageName]:
    seen = {one.stage for one in records}
    return [stage for stage in STAGES if stage in seen]
