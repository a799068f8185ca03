"""A small cluster for the tests of lanes and placement: nodes by name, models as (name, slots, resident)."""

from __future__ import annotations

from collections.abc import Iterable

from master.cluster.lane_call import Assignment, Effect, LaneCall, Preempt
from master.cluster.lanes import Lanes
from master.cluster.node import ENGINES
from master.cluster.placement import ModelPlace, NodeView
from master.cluster.speeds import Learned, Quantity, Speeds


def node(
    name: str,
    *models: tuple[str, int, bool],
    usable: bool = True,
    probing: bool = False,
    max_loaded: int | None = None,
    weight: float = 1.0,
) -> NodeView:
    return NodeView(
        name,
        [ModelPlace(model, slots, resident) for model, slots, resident in models],
        ENGINES if usable else (),
        ENGINES if probing else (),
        weight,
        {} if max_loaded is None else {"main": max_loaded},
    )


def speeds(
    *known: tuple[str, str, float, float], sharing: float | None = None, nodes: Iterable[str] = ()
) -> Speeds:
    """Speeds as learned: (node, model, load seconds, seconds per answer token), prompts a tenth of that."""
    found = Speeds()
    rows: list[Learned] = []
    for name, model, load_s, token_s in known:
        quantities: tuple[tuple[Quantity, float], ...] = (
            ("load", load_s),
            ("prompt", token_s / 10),
            ("generate", token_s),
        )
        rows += [Learned(name, "main", model, quantity, value, 9) for quantity, value in quantities]
    if sharing is not None:
        named = {*nodes, *(name for name, *_ in known)}
        rows += [Learned(name, "main", "", "sharing", sharing, 9) for name in named]
    found.restore(rows)
    return found


def lanes_of(*nodes: NodeView, known: Speeds | None = None, **settings: float) -> Lanes:
    lanes = Lanes(speeds=known or Speeds(), **settings)  # type: ignore[arg-type]  # a setting or two by name
    for one in nodes:
        lanes.know(one, 0.0)
    return lanes


def submit(lanes: Lanes, call_id: str, model: str = "m", now: float = 0.0, **fields: object) -> None:
    lanes.submit(LaneCall(call_id, model, **fields), now)  # type: ignore[arg-type]  # fields by name


def background(lanes: Lanes, call_id: str, model: str = "m", now: float = 0.0, **fields: object) -> None:
    submit(lanes, call_id, model, now, call_class="background", **fields)


def placed(effects: Iterable[Effect]) -> dict[str, str]:
    """Call → node of the assignments among the effects."""
    return {one.call_id: one.node for one in effects if isinstance(one, Assignment)}


def preempted(effects: Iterable[Effect]) -> list[str]:
    return [one.call_id for one in effects if isinstance(one, Preempt)]
