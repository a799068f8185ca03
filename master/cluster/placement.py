"""Which node a call runs on: pure.

First form: a node where the model is resident, then one with a free slot, then the fewest calls on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from master.cluster import model_names


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """One model on one node: calls that may run at once, and whether it is loaded."""

    name: str
    slots: int
    resident: bool


@dataclass(frozen=True, slots=True)
class NodeView:
    """What placement knows of a node. `usable` is false while it drains, is gone, or its breaker is open."""

    name: str
    models: Mapping[str, ModelPlace]
    usable: bool = True

    def place(self, model: str) -> ModelPlace | None:
        found = model_names.find(model, self.models)
        return None if found is None else self.models[found]


def choose(
    model: str,
    nodes: Sequence[NodeView],
    running: Mapping[tuple[str, str], int],
    *,
    avoid: Collection[str] = (),
    prefix_node: str | None = None,
) -> str | None:
    """The node with a free slot for the model, or `None` when the call has to wait.

    `running` counts calls per (node, model name on that node). `avoid` are nodes where this call failed:
    they are taken only when no other usable node has the model at all.
    """
    usable = [(node, place) for node in nodes if node.usable and (place := node.place(model)) is not None]
    preferred = [pair for pair in usable if pair[0].name not in avoid] or usable
    best: tuple[tuple[bool, bool, float, str], str] | None = None
    for node, place in preferred:
        taken = running.get((node.name, place.name), 0)
        if taken >= place.slots:
            continue
        load = sum(count for (where, _), count in running.items() if where == node.name)
        score = (not place.resident, node.name != prefix_node, load / place.slots, node.name)
        if best is None or score < best[0]:
            best = (score, node.name)
    return None if best is None else best[1]
