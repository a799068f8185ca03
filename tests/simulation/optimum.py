"""The best that could be done: an exhaustive optimum for one small council, and a bound for larger ones.

The optimum knows everything and may choose every node, order and eviction. It is exact for engines whose
slots do not share their speed and prompts that are not cached: a node's calls to one model then run in
rounds, one block per model (to interleave two only adds loads), and only residency passes between stages.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import permutations, product

from tests.simulation.physics import NodeSpec, SimCall

Need = tuple[str, int, float, float]
"""Model, calls, prompt tokens and answer tokens of each."""
Residents = frozenset[str]


def optimal_council_s(specs: Sequence[NodeSpec], stages: Sequence[Sequence[SimCall]]) -> float:
    """Seconds of the quickest council: stages one after the other, each call anywhere."""
    if any(spec.sharing for spec in specs):
        raise ValueError("engines that share their speed have no exact optimum here")
    best: dict[tuple[Residents, ...], float] = {tuple(frozenset(spec.resident) for spec in specs): 0.0}
    for calls in stages:
        after: dict[tuple[Residents, ...], float] = {}
        for residents, so_far in best.items():
            for left, took in _stage(specs, residents, calls):
                total = so_far + took
                if total < after.get(left, math.inf):
                    after[left] = total
        best = after
    return min(best.values())


def _stage(
    specs: Sequence[NodeSpec], residents: Sequence[Residents], calls: Sequence[SimCall]
) -> Iterator[tuple[tuple[Residents, ...], float]]:
    needs = Counter((one.model, one.prompt_tokens, one.answer_tokens) for one in calls)
    spread = [
        [
            split
            for split in _splits(count, len(specs))
            if all(not part or kind[0] in specs[at].models for at, part in enumerate(split))
        ]
        for kind, count in needs.items()
    ]
    for chosen in product(*spread):
        options = []
        for at, spec in enumerate(specs):
            here = tuple(
                (kind[0], split[at], kind[1], kind[2])
                for kind, split in zip(needs, chosen, strict=True)
                if split[at]
            )
            options.append(list(_node_options(_Frozen(spec), residents[at], here).items()))
        for combination in product(*options):
            yield tuple(left for left, _ in combination), max(took for _, took in combination)


def _splits(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (count,)
        return
    for first in range(count + 1):
        for rest in _splits(count - first, parts - 1):
            yield (first, *rest)


class _Frozen:
    """A node by identity, for the cache."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return hash(self.spec.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and other.spec is self.spec


@lru_cache(maxsize=200_000)
def _node_options(node: _Frozen, resident: Residents, needs: tuple[Need, ...]) -> Mapping[Residents, float]:
    """What can be resident after these calls, and the least seconds for it."""
    found: dict[Residents, float] = {}
    for order in permutations(needs):
        start = dict.fromkeys(resident, 0.0)
        for left, took in _blocks(node.spec, start, order, 0.0, 0.0):
            if took < found.get(left, math.inf):
                found[left] = took
    return found


def _blocks(
    spec: NodeSpec, free_at: dict[str, float], order: Sequence[Need], loader_at: float, end: float
) -> Iterator[tuple[Residents, float]]:
    """`free_at`: when each resident model's last call ends."""
    if not order:
        yield frozenset(free_at), end
        return
    (model, count, prompt, answer), *rest = order
    known = spec.models[model]
    work_s = prompt * known.prompt_s_per_token + answer * known.generate_s_per_token
    rounds_s = math.ceil(count / known.slots) * work_s
    if model in free_at:
        ended = free_at[model] + rounds_s
        yield from _blocks(spec, {**free_at, model: ended}, rest, loader_at, max(end, ended))
        return
    pending = {need[0] for need in rest}
    victims: list[str | None] = [None]
    if len(free_at) >= spec.max_loaded:
        victims = [one for one in free_at if one not in pending]
    for victim in victims:
        begins = max(loader_at, 0.0 if victim is None else free_at[victim])
        loaded = begins + known.load_s
        others = {name: at for name, at in free_at.items() if name != victim}
        ended = loaded + rounds_s
        yield from _blocks(spec, {**others, model: ended}, rest, loaded, max(end, ended))


def bound_s(specs: Sequence[NodeSpec], stages: Sequence[Sequence[SimCall]]) -> float:
    """No schedule of one council is quicker: each stage lasts as long as its longest call where that is
    quickest, and as long as all its work takes on all slots at their best.
    """
    return sum(max(_longest_s(specs, calls), _all_s(specs, calls)) for calls in stages)


def _quickest_s(specs: Sequence[NodeSpec], call: SimCall) -> float:
    return min(
        call.prompt_tokens * spec.models[call.model].prompt_s_per_token * 0.1
        + call.answer_tokens * spec.models[call.model].generate_s_per_token
        for spec in specs
        if call.model in spec.models
    )


def _longest_s(specs: Sequence[NodeSpec], calls: Sequence[SimCall]) -> float:
    return max(_quickest_s(specs, call) for call in calls)


def _all_s(specs: Sequence[NodeSpec], calls: Sequence[SimCall]) -> float:
    slots = sum(
        max(model.slots for model in spec.models.values()) * min(spec.max_loaded, len(spec.models))
        for spec in specs
    )
    return sum(_quickest_s(specs, call) for call in calls) / slots


def cluster_bound_s(specs: Sequence[NodeSpec], councils: Sequence[Sequence[Sequence[SimCall]]]) -> float:
    """No schedule of councils (their stages) that are all asked at once of a cluster with nothing loaded is
    quicker: each needs its longest calls one after the other, and all work needs all engines at their best,
    less what loading each model once keeps them from.
    """
    longest = max(
        _first_loads_s(specs, stages[0]) + sum(_longest_s(specs, calls) for calls in stages)
        for stages in councils
    )
    return max(
        longest, _all_work_s(specs, [call for stages in councils for calls in stages for call in calls])
    )


def _first_loads_s(specs: Sequence[NodeSpec], calls: Sequence[SimCall]) -> float:
    """Before the first stage ends, the model of each call is loaded somewhere."""
    return min(_least_load_s(specs, call.model) for call in calls)


def _least_load_s(specs: Sequence[NodeSpec], model: str) -> float:
    return min(spec.models[model].load_s for spec in specs if model in spec.models)


def _all_work_s(specs: Sequence[NodeSpec], calls: Sequence[SimCall]) -> float:
    """In slot-seconds of the quickest node for each call, so that unequal nodes can be added up."""
    pace = [_pace(spec, specs) for spec in specs]
    work = sum(_quickest_s(specs, call) for call in calls)
    lost = sum(
        min(
            spec.models[model].load_s * _lost_to_a_load(spec, each)
            for spec, each in zip(specs, pace, strict=True)
            if model in spec.models
        )
        for model in {call.model for call in calls}
    )
    return (work + lost) / sum(
        each * _slots_worth(spec, _most_slots(spec)) for spec, each in zip(specs, pace, strict=True)
    )


def _pace(spec: NodeSpec, specs: Sequence[NodeSpec]) -> float:
    """How quick the node is at what it is best at, against the quickest node for that: at most 1."""
    return max(
        min(other.models[name].generate_s_per_token for other in specs if name in other.models)
        / model.generate_s_per_token
        for name, model in spec.models.items()
    )


def _most_slots(spec: NodeSpec) -> int:
    return max(model.slots for model in spec.models.values()) * min(spec.max_loaded, len(spec.models))


def _slots_worth(spec: NodeSpec, busy: int) -> float:
    """What so many busy slots do in a second, in seconds of one that is alone."""
    return busy / (1 + spec.sharing * (busy - 1)) if busy else 0.0


def _lost_to_a_load(spec: NodeSpec, pace: float) -> float:
    most = _most_slots(spec)
    others = (
        most - max(model.slots for model in spec.models.values())
        if spec.max_loaded <= len(spec.models)
        else most
    )
    return pace * (_slots_worth(spec, most) - _slots_worth(spec, others))
