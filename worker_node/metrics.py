"""The node's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from common.protocol import Done
from worker_node.admission import Admission

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_PHASES = ("queue", "load", "prompt", "generate", "first_token", "total")


class _ModelCounts:
    """What calls of one (engine, model) that ended well add up to; counters since somebody looked last.

    Plain numbers: nine series of the client library for each call would be a tenth of the node's work.
    """

    __slots__ = ("buckets", "calls", "completion_tokens", "prompt_tokens", "seconds")

    def __init__(self) -> None:
        self.calls = self.prompt_tokens = self.completion_tokens = 0
        self.seconds = [0.0] * len(_PHASES)
        self.buckets = [[0] * (len(_SECONDS) + 1) for _ in _PHASES]

    def add(self, done: Done) -> None:
        self.calls += 1
        self.prompt_tokens += done.token_usage.prompt_tokens
        self.completion_tokens += done.token_usage.completion_tokens
        latency = done.latency
        spent_ms = (
            latency.queue_ms,
            latency.load_ms,
            latency.prompt_ms,
            latency.generate_ms,
            latency.first_token_ms,
            latency.total_ms,
        )
        for phase, milliseconds in enumerate(spent_ms):
            seconds = milliseconds / 1000
            self.seconds[phase] += seconds
            self.buckets[phase][bisect_left(_SECONDS, seconds)] += 1

    def take(self) -> tuple[int, int, int]:
        """Calls, tokens read and tokens written since this was asked last."""
        taken = self.calls, self.prompt_tokens, self.completion_tokens
        self.calls = self.prompt_tokens = self.completion_tokens = 0
        return taken


class _Latency(Collector):
    """The histogram of the phases, made when somebody looks."""

    def __init__(self, counts: Mapping[tuple[str, str], _ModelCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            "council_node_latency_seconds",
            "Where the time of calls that ended well went.",
            labels=("engine", "model", "phase"),
        )
        for (engine, model), counts in self._counts.items():
            for phase, buckets, seconds in zip(_PHASES, counts.buckets, counts.seconds, strict=True):
                up_to = zip([*map(str, _SECONDS), "+Inf"], accumulate(buckets), strict=True)
                family.add_metric([engine, model, phase], buckets=list(up_to), sum_value=seconds)
        yield family


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
        self.in_flight = Gauge(
            "council_node_calls_in_flight", "Calls that hold a slot.", ("engine",), registry=self.registry
        )
        self.queued = Gauge(
            "council_node_calls_queued", "Calls that wait for a slot.", ("engine",), registry=self.registry
        )
        self._counts: dict[tuple[str, str], _ModelCounts] = {}
        self.registry.register(_Latency(self._counts))

    def watch(self, engine: str, core: Admission) -> None:
        """Read the gauges of one engine from its admission whenever they are asked for."""
        self.in_flight.labels(engine).set_function(lambda: core.running)
        self.queued.labels(engine).set_function(lambda: core.waiting)

    def done(self, engine: str, model: str, done: Done) -> None:
        """Record a call that ended well."""
        counts = self._counts.get((engine, model))
        if counts is None:
            counts = self._counts[engine, model] = _ModelCounts()
        counts.add(done)

    def ended(self, engine: str, model: str, outcome: str) -> None:
        """Count a call that ended, well or not."""
        self.calls.labels(engine, model, outcome).inc()

    def exposition(self) -> bytes:
        for (engine, model), counts in self._counts.items():
            calls, prompt_tokens, completion_tokens = counts.take()
            self.calls.labels(engine, model, "ok").inc(calls)
            self.tokens.labels(engine, model, "prompt").inc(prompt_tokens)
            self.tokens.labels(engine, model, "completion").inc(completion_tokens)
        return generate_latest(self.registry)
