"""Simulated clusters of 1 to 1,000 unequal nodes: how much longer than the bound all councils take.

The bound knows no queue, no second load and no stage that waits; nobody can reach it. Beside ours stand least
connections with a slot limit where that is quick enough to simulate.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from tests.bench.figures import Figure, Scale
from tests.simulation import optimum, workload
from tests.simulation.physics import Cluster, NodeSpec, SimCall, Trouble
from tests.simulation.policies import LeastConnections, Ours
from tests.simulation.simulator import Simulation

COUNCILS_PER_NODE = 2
JOBS_PER_NODE = 5
_PEER_UP_TO = 30

Arrivals = list[tuple[float, SimCall]]


async def run(scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    for nodes in scale.clusters:
        figures += [_calm(nodes), _troubled(nodes), _flooded(nodes)] if nodes > 1 else [_calm(nodes)]
    return figures


def _calm(nodes: int) -> Figure:
    ours, bound = _run(Ours, nodes)
    peer = _run(LeastConnections, nodes)[0] / bound if nodes <= _PEER_UP_TO else None
    return Figure(
        f"{_what(nodes)}, over the bound", ours / bound, "x", LeastConnections.name if peer else "", peer
    )


def _troubled(nodes: int) -> Figure:
    """A third of the nodes dies or falls asleep within the time that all took without that, and returns."""
    calm, bound = _run(Ours, nodes)
    took, _ = _run(
        Ours, nodes, troubles=lambda rng, specs: workload.troubles(rng, specs, len(specs) // 3, calm / 2)
    )
    return Figure(
        f"{_what(nodes)}, a third of the nodes dies or sleeps", took / bound, "x", "calm", calm / bound
    )


def _flooded(nodes: int) -> Figure:
    """Background jobs were there before."""
    calm, bound = _run(Ours, nodes)
    jobs = workload.flood(random.Random(nodes), JOBS_PER_NODE * nodes, models=tuple(workload.MODELS))
    took, _ = _run(Ours, nodes, more=jobs)
    return Figure(f"{_what(nodes)}, beside {len(jobs):,} jobs", took / bound, "x", "calm", calm / bound)


def _what(nodes: int) -> str:
    councils = max(COUNCILS_PER_NODE * nodes, 6)
    return f"{councils:,} councils on {nodes:,} node{'s' if nodes > 1 else ''} (simulated)"


def _run(
    policy_of: type[Ours] | type[LeastConnections],
    nodes: int,
    *,
    troubles: Callable[[random.Random, Sequence[NodeSpec]], Iterable[Trouble]] = lambda rng, specs: (),
    more: Arrivals | None = None,
) -> tuple[float, float]:
    """Seconds until every council has ended, and the bound for that."""
    specs = workload.mixed_cluster(random.Random(nodes), nodes)
    traffic = workload.councils(random.Random(nodes + 1), max(COUNCILS_PER_NODE * nodes, 6))
    report = Simulation(
        Cluster(specs),
        policy_of(specs),
        arrivals=[*(more or ()), *traffic.arrivals],
        more=traffic.more,
        troubles=list(troubles(random.Random(nodes + 2), specs)),
    ).run()
    took = max(call.ended or 0.0 for call in report.calls if call.call_class == "interactive")
    return took, optimum.cluster_bound_s(specs, [one.stages for one in traffic.councils.values()])
