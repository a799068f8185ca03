"""Scheduling, simulated: the time of a decision, how near to the best a council ends, and a slowed node."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from master.cluster.lane_call import Assignment, LaneCall
from master.cluster.lanes import Lanes
from master.cluster.speeds import Sample, Speeds
from tests.bench.figures import Figure, Scale, percentile
from tests.simulation import optimum, workload
from tests.simulation.physics import Cluster, NodeSpec, SimNode, Trouble
from tests.simulation.policies import PEERS, POLICIES, LeastConnections, Ours, Policy, PolicyClass
from tests.simulation.simulator import Report, Simulation


async def run(scale: Scale) -> list[Figure]:
    return [
        *_decisions(nodes=1000, waiting=10_000, rounds=scale.calls * 4),
        *_near_the_optimum(seeds=scale.rounds * 25),
        *_beside_peers(seeds=scale.rounds * 10),
        _slowed_node(),
        *_chats_beside_a_flood(seeds=scale.rounds * 3),
    ]


def _decisions(*, nodes: int, waiting: int, rounds: int) -> list[Figure]:
    """CPU time of placing one call after another ended, everything else being taken."""
    rng = random.Random(1)
    specs = workload.mixed_cluster(rng, nodes, warm=True)
    speeds = Speeds()
    speeds.restore(row for spec in specs for row in spec.known())
    lanes = Lanes(max_waiting=2 * waiting, speeds=speeds)
    for spec in specs:
        lanes.know(SimNode(spec).view(), 0.0)
    models = list(workload.MODELS)
    running: list[str] = []
    for number in itertools.count():
        if lanes.waiting >= waiting:
            running += [one.call_id for one in lanes.decide(0.0) if isinstance(one, Assignment)]
            if lanes.waiting >= waiting:
                break
        session = f"s{number // 7}"
        lanes.submit(LaneCall(f"c{number}", rng.choice(models), session_id=session, prefix_key=session), 0.0)
    now, took = 1.0, []
    for number in range(rounds):
        ended = running.pop(rng.randrange(len(running)))
        lanes.submit(LaneCall(f"n{number}", rng.choice(models), session_id=f"n{number // 7}"), now)
        began = time.thread_time()
        lanes.release(ended, now, Sample(400, 256, 0.0, 0.5, 4.0))
        effects = lanes.decide(now)
        spent = time.thread_time() - began
        placed = [one.call_id for one in effects if isinstance(one, Assignment)]
        for call_id in placed:
            lanes.started(call_id, now)
        if placed:
            took.append(1000 * spent / len(placed))
        running += placed
        now += 0.01
    name = f"one placement, {nodes:,} nodes, {waiting:,} waiting, CPU"
    return [
        Figure(f"{name}, median", statistics.median(took), "ms", target=0.2),
        Figure(f"{name}, p99", percentile(took, 0.99), "ms"),
    ]


def _near_the_optimum(seeds: int) -> list[Figure]:
    """One council of up to 9 calls on 1 to 3 unequal nodes, cold or warm, over the exhaustive optimum."""
    ratios: dict[str, list[float]] = {policy_of.name: [] for policy_of in POLICIES}
    for seed in range(seeds):
        rng = random.Random(seed)
        models = rng.sample(list(workload.MODELS), rng.choice([2, 3, 4]))
        warm = rng.random() < 0.5
        cluster = workload.mixed_cluster(rng, rng.choice([1, 2, 2, 3]), models=models, warm=warm)
        specs = [replace(spec, sharing=0.0) for spec in cluster]
        agents = [rng.choice(models) for _ in range(rng.choice([2, 3, 4]))]
        chairman = rng.choice(agents)
        for policy_of in POLICIES:
            council = workload.Council("s", agents, chairman, cached=False)
            traffic = workload.Traffic()
            traffic.add(0.0, council)
            took = _simulate(policy_of, specs, traffic).makespan
            ratios[policy_of.name].append(took / optimum.optimal_council_s(specs, council.stages))
    what, ours = "a council over the exhaustive optimum (simulated)", ratios.pop(Ours.name)
    return [
        Figure(f"{what}, mean of {seeds}", statistics.mean(ours), "x", target=1.10),
        *(
            Figure(f"{what}, mean of {seeds}, {name}", statistics.mean(theirs), "x")
            for name, theirs in ratios.items()
        ),
        Figure(f"{what}, p90", percentile(ours, 0.9), "x"),
        Figure(f"{what}, worst", max(ours), "x"),
    ]


def _beside_peers(seeds: int) -> list[Figure]:
    """Six councils at once on 2 to 6 unequal nodes with model switches; peers' makespan over ours."""
    times: dict[str, list[float]] = {}
    loads: dict[str, int] = {}
    for seed in range(100, 100 + seeds):
        rng = random.Random(seed)
        specs = workload.mixed_cluster(rng, rng.choice([2, 3, 4, 6]))
        for policy_of in POLICIES:
            report = _simulate(policy_of, specs, workload.councils(random.Random(seed + 1000), 6))
            times.setdefault(policy_of.name, []).append(report.makespan)
            loads[policy_of.name] = loads.get(policy_of.name, 0) + report.loads
    ours = times["ours"]
    figures = [
        Figure(
            f"6 councils at once, ours over {name} (geometric mean of {seeds})",
            statistics.geometric_mean(one / other for one, other in zip(ours, others, strict=True)),
            "x",
            target=1 / 1.5 if name == LeastConnections.name else None,
        )
        for name, others in times.items()
        if name != "ours"
    ]
    return figures + [
        Figure(
            "model loads of those councils",
            loads["ours"] / seeds,
            "loads",
            peer=peer.name,
            peer_value=loads[peer.name] / seeds,
        )
        for peer in PEERS
    ]


def _slowed_node() -> Figure:
    """The share of calls of one node of three, 20 calls after it slowed fourfold, over its share before."""
    models = {"m": workload.model_spec(workload.GB, slots=2)}
    specs = [NodeSpec(f"pc{number}", models, resident=("m",)) for number in range(3)]
    chats = workload.chats(random.Random(3), 400, models=["m"], every_s=3.0)
    slowed_at = 500.0
    report = _simulate(Ours, specs, workload.Traffic(chats), [Trouble(slowed_at, "pc1", "slow")])

    def share(placed: Sequence[tuple[float, str, str]]) -> float:
        return sum(node == "pc1" for _, _, node in placed) / len(placed)

    before = [one for one in report.placed if one[0] < slowed_at]
    after = [one for one in report.placed if one[0] >= slowed_at][20:120]
    return Figure(
        "share of a node slowed fourfold, after 20 calls", share(after) / share(before), "x", target=0.5
    )


def _chats_beside_a_flood(seeds: int) -> list[Figure]:
    """How much longer chats wait for their start with background saturating three nodes than without."""
    models = ["llama3.2:1b", "llama3.2:3b"]
    with_flood: list[float] = []
    without: list[float] = []
    for seed in range(seeds):
        specs = [
            replace(spec, max_loaded=2, sharing=0.3, resident=tuple(spec.models))
            for spec in workload.mixed_cluster(random.Random(seed), 3, models=models)
        ]
        for jobs, found in ((0, without), (200, with_flood)):
            traffic = workload.Traffic(workload.chats(random.Random(seed), 60, models=models, every_s=20.0))
            traffic.arrivals += workload.flood(random.Random(seed), jobs, models=models)
            found += _simulate(Ours, specs, traffic).waits("interactive")
    more_s = statistics.mean(with_flood) - statistics.mean(without)
    return [
        Figure("chats beside saturating background start later by, mean", 1000 * more_s, "ms", target=250)
    ]


def _simulate(
    policy_of: PolicyClass,
    specs: Sequence[NodeSpec],
    traffic: workload.Traffic,
    troubles: Sequence[Trouble] = (),
) -> Report:
    policy: Policy = policy_of(specs)
    simulation = Simulation(
        Cluster(list(specs)), policy, arrivals=traffic.arrivals, more=traffic.more, troubles=troubles
    )
    return simulation.run()
