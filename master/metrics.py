"""What `/metrics` of the master tells, in one registry of its own."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)
CALLS = Counter("council_calls", "Model calls by outcome.", ["model", "outcome"], registry=REGISTRY)


@lru_cache(maxsize=1024)
def calls(model: str, outcome: str) -> Counter:
    """The counter of one model and outcome; looking it up anew takes longer than counting."""
    return CALLS.labels(model, outcome)


CALLS_WAITING = Gauge("council_calls_waiting", "Calls that wait for a slot.", registry=REGISTRY)
SESSIONS = Counter("council_sessions", "Ended sessions by result.", ["result"], registry=REGISTRY)
SESSIONS_ACTIVE = Gauge("council_sessions_active", "Sessions that run now.", registry=REGISTRY)
TOKENS = Counter("council_tokens", "Tokens by model and kind.", ["model", "kind"], registry=REGISTRY)
STAGE_SECONDS = Histogram(
    "council_stage_seconds",
    "Wall time of a stage.",
    ["stage"],
    buckets=(0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320),
    registry=REGISTRY,
)
BACKGROUND_ENGINE = Gauge(
    "council_background_engine", "1 for the state that it is in.", ["state"], registry=REGISTRY
)
BACKGROUND_CALLS = Counter(
    "council_background_calls",
    "Background calls that were answered, by engine.",
    ["engine"],
    registry=REGISTRY,
)
USE_CPU = Gauge(
    "council_cpu_percent", "CPU of a part, of its whole machine.", ["node", "part"], registry=REGISTRY
)
USE_MEMORY = Gauge("council_memory_bytes", "Memory of a part.", ["node", "part"], registry=REGISTRY)
GATE_OPEN = Gauge("council_gate_open", "Whether background work may run somewhere now.", registry=REGISTRY)
GATE_MOVES = Counter(
    "council_gate_moves",
    "Moves of the gate and of machines, by the state they lead to.",
    ["state"],
    registry=REGISTRY,
)
