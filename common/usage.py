"""Tokens and latency: what every call records and what stages and sessions sum up.

Frozen dataclasses, because both codecs of the project (msgspec on the node's wire, Pydantic on the
master's API) read and write them as they are. Durations are milliseconds, rounded to a microsecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

StageName = Literal["opinions", "review", "synthesis"]
STAGES: tuple[StageName, ...] = ("opinions", "review", "synthesis")


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one call or of a sum of calls. `total_tokens` is always the sum of the other two."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> TokenUsage:
        return cls(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage.of(
            self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens
        )


@dataclass(frozen=True, slots=True)
class CallLatency:
    """Where the time of one call went, in milliseconds.

    `queue_ms` waiting for a slot (here and inside the engine); `load_ms` loading the model; `prompt_ms`
    reading the uncached prompt; `generate_ms` writing the answer; `network_ms` what is left of `total_ms`
    on the way; `first_token_ms` from the caller's request to the first text.
    """

    queue_ms: float = 0.0
    load_ms: float = 0.0
    prompt_ms: float = 0.0
    generate_ms: float = 0.0
    network_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    tokens_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class AgentLatency:
    """The latency of one agent in one stage: the sum over its attempts, on the node of the last one."""

    node: str | None = None
    queue_ms: float = 0.0
    load_ms: float = 0.0
    prompt_ms: float = 0.0
    generate_ms: float = 0.0
    network_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    tokens_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class StageTokenUsage:
    stage: StageName
    total_prompt_tokens: int = 0
    total_completion_tokens: int = 0
    total_tokens: int = 0
    by_model: Mapping[str, TokenUsage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionTokenUsage:
    """A stage that did not run is `None`."""

    stage1_opinions: StageTokenUsage | None = None
    stage2_review: StageTokenUsage | None = None
    stage3_synthesis: StageTokenUsage | None = None
    total_prompt_tokens: int = 0
    total_completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StageLatencyStats:
    """`duration_ms` is the wall time of the stage, summed over the runs of the session."""

    stage: StageName
    duration_ms: float = 0.0
    by_agent: Mapping[str, AgentLatency] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionLatencyStats:
    stage1_opinions: StageLatencyStats | None = None
    stage2_review: StageLatencyStats | None = None
    stage3_synthesis: StageLatencyStats | None = None
    total_duration_ms: float = 0.0


def stage_token_usage(stage: StageName, calls: Iterable[tuple[str, TokenUsage]]) -> StageTokenUsage:
    """Sum (model, usage) pairs of one stage."""
    total = TokenUsage()
    by_model: dict[str, TokenUsage] = {}
    for model, usage in calls:
        total += usage
        by_model[model] = by_model.get(model, TokenUsage()) + usage
    return StageTokenUsage(stage, total.prompt_tokens, total.completion_tokens, total.total_tokens, by_model)


def session_token_usage(stages: Mapping[StageName, StageTokenUsage]) -> SessionTokenUsage:
    """Sum the stages that ran; the others stay `None`."""
    total = TokenUsage()
    for stage in stages.values():
        total += TokenUsage.of(stage.total_prompt_tokens, stage.total_completion_tokens)
    return SessionTokenUsage(
        stages.get("opinions"),
        stages.get("review"),
        stages.get("synthesis"),
        total.prompt_tokens,
        total.completion_tokens,
        total.total_tokens,
    )


def sum_latencies(node: str | None, attempts: Iterable[CallLatency]) -> AgentLatency:
    """Add the attempts of one agent up; first token and speed are those of the last one."""
    queue = load = prompt = generate = network = total = first = speed = 0.0
    for one in attempts:
        queue += one.queue_ms
        load += one.load_ms
        prompt += one.prompt_ms
        generate += one.generate_ms
        network += one.network_ms
        total += one.total_ms
        first, speed = one.first_token_ms, one.tokens_per_second
    return AgentLatency(
        node=node,
        queue_ms=round(queue, 3),
        load_ms=round(load, 3),
        prompt_ms=round(prompt, 3),
        generate_ms=round(generate, 3),
        network_ms=round(network, 3),
        first_token_ms=first,
        total_ms=round(total, 3),
        tokens_per_second=speed,
    )


def session_latency_stats(stages: Mapping[StageName, StageLatencyStats]) -> SessionLatencyStats:
    return SessionLatencyStats(
        stages.get("opinions"),
        stages.get("review"),
        stages.get("synthesis"),
        round(sum(stage.duration_ms for stage in stages.values()), 3),
    )
