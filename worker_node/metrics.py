"""The node's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from common.protocol import Done
from worker_node.admission import Admission

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_NOTED_AT_MOST = 256
_PHASES = ("queue", "load", "prompt", "generate", "first_token", "total")


class _ModelMetrics:
    """The children of one (engine, model), looked up once."""

    def __init__(self, metrics: NodeMetrics, engine: str, model: str) -> None:
        self.prompt_tokens = metrics.tokens.labels(engine, model, "prompt")
        self.completion_tokens = metrics.tokens.labels(engine, model, "completion")
        self.ok = metrics.calls.labels(engine, model, "ok")
        self.phases = tuple(metrics.latency.labels(engine, model, phase) for phase in _PHASES)


class NodeMetrics:
    """Counts calls. `model` labels are names that the engine lists, never what a caller typed."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "council_node_calls",
            "Calls that ended, by outcome: `ok` or the code of the error.",
            ("engine", "model", "outcome"),
            registry=self.registry,
        )
        self.tokens = Counter(
            "council_node_tokens",
            "Tokens of calls that ended well.",
            ("engine", "model", "kind"),
            registry=self.registry,
        )
        self.latency = Histogram(
            "council_node_latency_seconds",
            "Where the time of calls that ended well went.",
            ("engine", "model", "phase"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "council_node_calls_in_flight", "Calls that hold a slot.", ("engine",), registry=self.registry
        )
        self.queued = Gauge(
            "council_node_calls_queued", "Calls that wait for a slot.", ("engine",), registry=self.registry
        )
        self._models: dict[tuple[str, str], _ModelMetrics] = {}
        self._noted: list[tuple[str, str, Done]] = []

    def watch(self, engine: str, core: Admission) -> None:
        """Read the gauges of one engine from its admission whenever they are asked for."""
        self.in_flight.labels(engine).set_function(lambda: core.running)
        self.queued.labels(engine).set_function(lambda: core.waiting)

    def done(self, engine: str, model: str, done: Done) -> None:
        """Record a call that ended well."""
        self._noted.append((engine, model, done))
        if len(self._noted) >= _NOTED_AT_MOST:
            self._count()

    def _count(self) -> None:
        """Seven series for each call: done together, off the way of a call, and before somebody looks."""
        noted, self._noted = self._noted, []
        for one in noted:
            self._count_one(*one)

    def _count_one(self, engine: str, model: str, done: Done) -> None:
        known = self._models.get((engine, model))
        if known is None:
            known = self._models[engine, model] = _ModelMetrics(self, engine, model)
        known.ok.inc()
        known.prompt_tokens.inc(done.token_usage.prompt_tokens)
        known.completion_tokens.inc(done.token_usage.completion_tokens)
        latency = done.latency
        spent = (
            latency.queue_ms,
            latency.load_ms,
            latency.prompt_ms,
            latency.generate_ms,
            latency.first_token_ms,
            latency.total_ms,
        )
        for histogram, milliseconds in zip(known.phases, spent, strict=True):
            histogram.observe(milliseconds / 1000)

    def ended(self, engine: str, model: str, outcome: str) -> None:
        """Count a call that ended, well or not."""
        self.calls.labels(engine, model, outcome).inc()

    def exposition(self) -> bytes:
        self._count()
        return generate_latest(self.registry)
