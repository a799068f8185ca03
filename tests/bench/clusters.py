"""Simulated clusters of 1 to 1,000 unequal nodes: councils that are all asked at once, by every policy.

Alone, and beside background jobs that were there before. The bound knows no queue, no second load and no
stage that waits; nobody can reach it.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from common.protocol import CallClass
from tests.bench.figures import Figure, Scale, percentile
from tests.simulation import optimum, workload
from tests.simulation.physics import Cluster, NodeSpec, Trouble
from tests.simulation.policies import POLICIES, Ours, PolicyClass
from tests.simulation.simulator import Report, Simulation

COUNCILS_PER_NODE = 2
JOBS_PER_COUNCIL = 2.5


async def run(scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    for nodes in scale.clusters:
        councils = min(max(COUNCILS_PER_NODE * nodes, 6), scale.cluster_councils)
        figures += _of_case(Case(nodes, councils))
    return figures


@dataclass(frozen=True, slots=True)
class Case:
    """A cluster and its traffic: the same whenever it is asked for."""

    nodes: int
    councils: int
    specs: list[NodeSpec] = field(init=False)

    def __post_init__(self) -> None:
        specs = workload.mixed_cluster(random.Random(self.nodes), self.nodes)
        object.__setattr__(self, "specs", specs)

    @property
    def jobs(self) -> int:
        return round(JOBS_PER_COUNCIL * self.councils)

    def run(self, policy_of: PolicyClass, *, jobs: int = 0, troubles: Iterable[Trouble] = ()) -> Outcome:
        traffic = workload.councils(random.Random(self.nodes + 1), self.councils)
        flood = workload.flood(random.Random(self.nodes), jobs, models=tuple(workload.MODELS))
        report = Simulation(
            Cluster(self.specs),
            policy_of(self.specs),
            arrivals=[*flood, *traffic.arrivals],
            more=traffic.more,
            troubles=troubles,
        ).run()
        bound = optimum.cluster_bound_s(self.specs, [one.stages for one in traffic.councils.values()])
        return Outcome(report, bound)


@dataclass(frozen=True, slots=True)
class Outcome:
    report: Report
    bound_s: float

    @property
    def took_s(self) -> float:
        """Until every council has ended."""
        return max(call.ended or 0.0 for call in self.report.calls if call.call_class == "interactive")

    @property
    def over_the_bound(self) -> float:
        return self.took_s / self.bound_s


def _of_case(case: Case) -> list[Figure]:
    what = f"{case.councils:,} councils on {case.nodes:,} node{'s' if case.nodes > 1 else ''}"
    figures: list[Figure] = []
    for policy_of in POLICIES:
        row = f"{what}: {policy_of.name}"
        alone, beside = case.run(policy_of), case.run(policy_of, jobs=case.jobs)
        figures += [
            Figure("alone: over the bound", alone.over_the_bound, "x", row=row),
            Figure("loads", alone.report.loads, "", row=row),
            *_waits("wait", alone, "interactive", row),
            Figure("beside jobs: over the bound", beside.over_the_bound, "x", row=row),
            Figure("loads, jobs' too", beside.report.loads, "", row=row),
            *_waits("councils wait", beside, "interactive", row),
            *_waits("jobs wait", beside, "background", row),
        ]
        if policy_of is Ours:
            figures += _decisions(beside.report, row)
            if case.nodes > 1:
                figures.append(_troubled(case, alone, what))
    return figures


def _waits(what: str, outcome: Outcome, call_class: CallClass, row: str) -> list[Figure]:
    """From a call's coming to its first start, loads and stages of others included."""
    waits = outcome.report.waits(call_class)
    return [
        Figure(f"{what}, mean", statistics.mean(waits), "s", row=row),
        Figure(f"{what}, p95", percentile(waits, 0.95), "s", row=row),
    ]


def _decisions(report: Report, row: str) -> list[Figure]:
    """Wall time of each: when a call comes or ends, a node says something or time has passed."""
    return [
        Figure("one decision, mean", 1000 * statistics.mean(report.decision_s), "ms", row=row),
        Figure("one decision, p99", 1000 * percentile(report.decision_s, 0.99), "ms", row=row),
    ]


def _troubled(case: Case, calm: Outcome, what: str) -> Figure:
    """A third of the nodes dies or falls asleep within the time that all took without that, and returns."""
    troubles = workload.troubles(
        random.Random(case.nodes + 2), case.specs, len(case.specs) // 3, calm.took_s / 2
    )
    took = case.run(Ours, troubles=troubles)
    return Figure(
        f"{what} (simulated), a third of the nodes dies or sleeps, over the bound",
        took.over_the_bound,
        "x",
        "calm",
        calm.over_the_bound,
    )
