"""Simulated clusters: whatever happens, the rules hold, and calls end about as soon as they can."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import pytest

from master.cluster.lanes import AGE_S
from master.cluster.places import Model
from tests.simulation import optimum, workload
from tests.simulation.physics import Cluster, NodeSpec, SimCall, SimNode, Trouble
from tests.simulation.policies import POLICIES, LeastConnections, Ours, Policy, PolicyClass
from tests.simulation.simulator import TICK_S, Report, Simulation

SEEDS = range(12)
pytestmark = pytest.mark.no_cover


class Watched(Simulation):
    """Looks at every node after each decision."""

    _in_vain_since: dict[str, float]

    def run(self) -> Report:
        self._in_vain_since = {}
        return super().run()

    def _decide(self) -> None:
        super()._decide()
        for name, node in self.cluster.nodes.items():
            if not node.alive:
                continue
            for model, spec in node.spec.models.items():
                held = sum(
                    self._where.get(call_id) == name and job.call.model == model
                    for call_id, job in node.jobs.items()
                )
                if held > spec.slots:
                    self.report.overlaps.append(f"{held} calls of {model} on {name}")
            if len(node.resident) > node.spec.max_loaded:
                self.report.overlaps.append(f"{len(node.resident)} models on {name}")
        # On unequal nodes a call may rightly wait for a faster one than background's.
        if len({str(node.spec.models) for node in self.cluster.nodes.values()}) == 1:
            self._nobody_waits_behind_background()
        self._nobody_waits_behind_background_in_vain()

    def _nobody_waits_behind_background(self) -> None:
        """An interactive call waits only while no slot that it could have is background's for long."""
        assert isinstance(self.policy, Ours)
        lanes = self.policy.lanes
        for model in lanes.places.models.values():
            # Slots are being emptied for the first of them, or the first counts on a slot that ends sooner.
            waiting = len(model.queues["interactive"]) - model.promised
            if waiting > 0 and not model.claimed["interactive"] and (ahead := self._background_at(model)):
                self.report.overlaps.append(f"{waiting} calls wait behind {ahead}")

    def _nobody_waits_behind_background_in_vain(self) -> None:
        """What waits although it could have background's slot would end sooner by waiting, at every look.

        The lanes look again when something changes, and at each tick: what others count on may shift between.
        """
        assert isinstance(self.policy, Ours)
        lanes, in_vain = self.policy.lanes, set[str]()
        for model in lanes.places.models.values():
            if len(model.queues["interactive"]) <= model.promised:
                continue
            ahead = self._background_at(model)
            if not ahead or any(place.engine.drained_for is place for place in model.places.values()):
                continue
            first = lanes._waiting[model.queues["interactive"][model.promised]]
            if first.avoid:
                continue  # it failed on a node, and leaves that one alone while another has the model
            # Nobody stands before the first one of its model: what that counts on itself is put aside.
            key = (model.key[1], first.lane)
            own = [(engine, engine.claims.pop(key, 0.0)) for engine in model.claimed["interactive"]]
            choice = lanes._chooser.best(model, first, self.now)
            gains = lanes._chooser.later(model, first, choice, self.now) is not None
            for engine, seconds in own:
                engine.claims[key] = seconds
            if gains:
                continue
            in_vain.add(first.call_id)
            since = self._in_vain_since.setdefault(first.call_id, self.now)
            if self.now - since > TICK_S:
                self.report.overlaps.append(f"{first.call_id} waits behind {ahead} in vain since {since}")
        self._in_vain_since = {one: at for one, at in self._in_vain_since.items() if one in in_vain}

    def _background_at(self, model: Model) -> list[str]:
        """Background calls that hold a slot of the model and are not leaving; one that has aged may stay."""
        assert isinstance(self.policy, Ours)
        lanes, found = self.policy.lanes, []
        for call_id in self._where:
            call, place = self._open[call_id], lanes.place_of(call_id)
            if call.call_class == "interactive" or place is None or place.model != model.key[1]:
                continue
            aged = self.now - call.submitted >= lanes.age_s
            if not aged and place.usable and not place.running[call_id].leaving:
                found.append(call_id)
        return found


def run(
    specs: Sequence[NodeSpec],
    traffic: workload.Traffic,
    troubles: Sequence[Trouble] = (),
    age_s: float = AGE_S,
) -> Report:
    policy = Ours(specs)
    policy.lanes.age_s = age_s
    simulation = Watched(
        Cluster(list(specs)), policy, arrivals=traffic.arrivals, more=traffic.more, troubles=troubles
    )
    return simulation.run()


def assert_whole(report: Report) -> None:
    assert report.overlaps == []
    unended = [one.call_id for one in report.calls if one.runs != 1]
    assert unended == []


def test_a_simulated_load_that_begins_when_a_call_ends_takes_its_whole_time() -> None:
    models = {name: workload.model_spec(workload.GB, slots=1) for name in ("a", "b")}
    work_s, load_s = 400.0 * models["a"].prompt_s_per_token + 256.0 * models["a"].generate_s_per_token, 2.5
    node = SimNode(NodeSpec("pc0", models, resident=("a",)))
    node.submit(SimCall("first", "a"))
    node.submit(SimCall("second", "b"))
    assert models["b"].load_s == load_s
    assert [one.kind for one in node.advance(node.next_at())] == ["ended"]
    assert node.now == pytest.approx(work_s)
    assert [one.call_id for one in node.advance(node.next_at())] == ["second"]
    assert node.now == pytest.approx(work_s + load_s)


def test_a_simulated_model_that_was_unloaded_reads_its_prompts_anew() -> None:
    spec = workload.model_spec(workload.GB, slots=1)
    node = SimNode(NodeSpec("pc0", {"a": spec}, resident=("a",)))

    def took_s(call_id: str) -> float:
        node.submit(SimCall(call_id, "a", prefix_key="s"))
        began = node.now
        while call_id in node.jobs:
            node.advance(node.next_at())
        return node.now - began

    first_s = took_s("first")
    assert took_s("cached") < first_s
    node.evict("a")
    assert took_s("reloaded") == pytest.approx(spec.load_s + first_s)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_call_ends_once_and_no_slot_is_exceeded_while_nodes_come_and_go(seed: int) -> None:
    rng = random.Random(seed)
    specs = workload.mixed_cluster(rng, rng.randint(2, 6))
    traffic = workload.councils(rng, 4, every_s=10.0)
    traffic.arrivals += workload.chats(rng, 10, models=list(workload.MODELS), every_s=8.0)
    traffic.arrivals += workload.flood(rng, 15, models=list(workload.MODELS))
    report = run(specs, traffic, workload.troubles(rng, specs, 2, 60.0))
    assert_whole(report)


@pytest.mark.parametrize("seed", SEEDS)
def test_chats_do_not_notice_a_flood_of_background_calls(seed: int) -> None:
    """Beyond the quarter second of pre-emption, until a background call has aged."""
    rng = random.Random(seed)
    models = ["llama3.2:1b", "llama3.2:3b"]
    specs = [
        replace(spec, sharing=0.3, max_loaded=2, resident=tuple(spec.models))
        for spec in workload.mixed_cluster(rng, 3, models=models)
    ]

    def waits(jobs: int) -> list[float]:
        traffic = workload.Traffic(workload.chats(random.Random(seed), 30, models=models, every_s=20.0))
        traffic.arrivals += workload.flood(random.Random(seed), jobs, models=models)
        report = run(specs, traffic, age_s=float("inf"))
        assert_whole(report)
        return report.waits("interactive")

    assert mean(waits(60)) <= mean(waits(0)) + 0.25


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_waits_behind_background_on_equal_nodes(seed: int) -> None:
    rng = random.Random(seed)
    models = {
        name: workload.model_spec(workload.MODELS[name], slots=rng.choice([1, 1, 2, 3]))
        for name in ("llama3.2:1b", "phi3.5")
    }
    specs = [NodeSpec(f"pc{number}", models, 2, rng.choice([0.0, 0.4]), tuple(models)) for number in range(3)]
    traffic = workload.Traffic(workload.chats(rng, 60, models=list(models), every_s=2.0))
    traffic.arrivals += workload.flood(rng, 40, models=list(models))
    report = run(specs, traffic)
    assert_whole(report)
    assert any(one.preempted for one in report.calls)


@pytest.mark.parametrize("seed", SEEDS)
def test_on_mixed_nodes_nobody_waits_behind_background_who_gains_nothing_by_it(seed: int) -> None:
    rng = random.Random(seed)
    models = ("llama3.2:1b", "phi3.5")
    specs = workload.mixed_cluster(rng, rng.choice([2, 3, 4]), models=models)
    traffic = workload.Traffic(workload.chats(rng, 60, models=models, every_s=2.0))
    traffic.arrivals += workload.flood(rng, 40, models=models)
    report = run(specs, traffic)
    assert_whole(report)
    assert any(one.preempted for one in report.calls)


def test_background_is_served_at_last_beside_chats_that_never_end() -> None:
    spec = NodeSpec("pc0", {"m": workload.model_spec(workload.GB)}, resident=("m",))
    spec = replace(spec, models={"m": replace(spec.models["m"], slots=1)})
    # A chat every five seconds, each of which takes six: there is never a moment without one.
    chats = [(5.0 * number, SimCall(f"chat{number}", "m", answer_tokens=120.0)) for number in range(200)]
    traffic = workload.Traffic([*chats, (0.5, SimCall("job", "m", "background", answer_tokens=100.0))])
    report = run([spec], traffic)
    assert_whole(report)
    job = next(one for one in report.calls if one.call_id == "job")
    assert job.ended is not None
    assert job.ended < 400.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_council_is_about_as_quick_as_it_can_be(seed: int) -> None:
    """Against the exhaustive optimum. One greedy choice may cost up to double; the mean is the bench's."""
    rng = random.Random(seed)
    models = rng.sample(list(workload.MODELS), 3)
    specs = [
        replace(one, sharing=0.0)
        for one in workload.mixed_cluster(rng, rng.randint(1, 3), models=models, warm=seed % 2 == 0)
    ]
    council = workload.Council("s", models, rng.choice(models), cached=False)
    traffic = workload.Traffic()
    traffic.add(0.0, council)
    report = run(specs, traffic)
    best = optimum.optimal_council_s(specs, council.stages)
    assert optimum.bound_s(specs, council.stages) <= best * 1.000001
    assert best * 0.999999 <= report.makespan <= 2.0 * best


def test_councils_on_a_mixed_cluster_end_sooner_than_with_least_connections() -> None:
    def makespan(policy_of: type[Ours] | type[LeastConnections], seed: int) -> float:
        rng = random.Random(seed)
        specs = workload.mixed_cluster(rng, rng.choice([2, 3, 4, 6]))
        traffic = workload.councils(random.Random(seed + 1000), 6)
        policy: Policy = policy_of(specs)
        simulation = Simulation(Cluster(specs), policy, arrivals=traffic.arrivals, more=traffic.more)
        return simulation.run().makespan

    ratios = [makespan(LeastConnections, seed) / makespan(Ours, seed) for seed in SEEDS]
    assert mean(ratios) >= 1.5


@pytest.mark.parametrize("policy_of", POLICIES)
def test_every_policy_ends_every_call_beside_background_while_a_node_comes_and_goes(
    policy_of: PolicyClass,
) -> None:
    rng = random.Random(4)
    specs = workload.mixed_cluster(rng, 5)
    traffic = workload.councils(rng, 4)
    traffic.arrivals += workload.flood(rng, 20, models=list(workload.MODELS))
    troubles = workload.troubles(rng, specs, 2, 60.0)
    simulation = Simulation(
        Cluster(specs), policy_of(specs), arrivals=traffic.arrivals, more=traffic.more, troubles=troubles
    )
    report = simulation.run()
    assert_whole(report)
    assert len(report.waits("background")) == 20
    assert len(report.waits("interactive")) + 20 == len(report.calls)
    bound = optimum.cluster_bound_s(specs, [one.stages for one in traffic.councils.values()])
    assert report.makespan >= bound


def test_a_node_slowed_fourfold_gets_under_half_of_its_share_within_twenty_calls() -> None:
    models = {"m": replace(workload.model_spec(workload.GB), slots=2)}
    specs = [NodeSpec(f"pc{number}", models, resident=("m",)) for number in range(3)]
    arrivals = [(2.6 * number, SimCall(f"c{number}", "m", answer_tokens=100.0)) for number in range(160)]
    slowed_at = 200.0
    report = run(specs, workload.Traffic(arrivals), [Trouble(slowed_at, "pc1", "slow")])
    assert_whole(report)

    def share(placed: Sequence[tuple[float, str, str]]) -> float:
        return sum(node == "pc1" for _, _, node in placed) / len(placed)

    before = [one for one in report.placed if one[0] < slowed_at]
    after = [one for one in report.placed if one[0] >= slowed_at]
    assert share(after[20:60]) < share(before) / 2


def test_what_was_learned_from_nothing_is_enough_to_find_the_fast_node() -> None:
    slow, fast = workload.model_spec(workload.GB, speed=0.25), workload.model_spec(workload.GB, speed=4.0)
    specs = [
        NodeSpec("slow", {"m": slow}, resident=("m",)),
        NodeSpec("fast", {"m": fast}, resident=("m",)),
    ]
    arrivals = [(float(number), SimCall(f"c{number}", "m")) for number in range(80)]
    simulation = Simulation(Cluster(specs), Ours(specs, known=False), arrivals=arrivals)
    report = simulation.run()
    assert sum(node == "slow" for _, _, node in report.placed[20:]) < 6
