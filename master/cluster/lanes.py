"""The order of calls: pure. Calls come in, assignments to nodes come out.

Interactive calls go before background ones, each class in the order of arrival; a call whose model has no
free slot does not hold up one behind it whose model has. Slots per (node, model) are never exceeded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.errors import QueueFullError
from common.protocol import CallClass
from master.cluster import model_names, placement
from master.cluster.placement import NodeView

_CLASSES: tuple[CallClass, ...] = ("interactive", "background")


@dataclass(slots=True)
class LaneCall:
    call_id: str
    model: str
    call_class: CallClass = "interactive"
    avoid: frozenset[str] = frozenset()
    prefix_node: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """The call holds a slot of `model` (its name there) on `node` until `Lanes.release`."""

    call_id: str
    node: str
    model: str


@dataclass(slots=True)
class Lanes:
    max_waiting: int = 1000
    _waiting: dict[CallClass, dict[str, LaneCall]] = field(
        default_factory=lambda: {name: {} for name in _CLASSES}
    )
    _held: dict[str, Assignment] = field(default_factory=dict)
    _running: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def submit(self, call: LaneCall) -> None:
        """Put a call at the end of its class. Raises `QueueFullError`."""
        if self.waiting >= self.max_waiting:
            raise QueueFullError(
                f"{self.waiting} calls are waiting for a model already; try again shortly",
                model=call.model,
                retry_after_s=5.0,
            )
        self._waiting[call.call_class][call.call_id] = call

    def withdraw(self, call_id: str) -> None:
        """Forget a call that waits; one that is unknown or runs is left alone."""
        for lane in self._waiting.values():
            lane.pop(call_id, None)

    def release(self, call_id: str) -> None:
        """Give the slot of a call back; once."""
        held = self._held.pop(call_id, None)
        if held is None:
            return
        place = (held.node, held.model)
        self._running[place] -= 1
        if self._running[place] == 0:
            del self._running[place]

    def assign(self, nodes: Sequence[NodeView]) -> list[Assignment]:
        """Give free slots to waiting calls, in order."""
        made: list[Assignment] = []
        by_name = {node.name: node for node in nodes}
        for lane in self._waiting.values():
            for call in list(lane.values()):
                name = placement.choose(
                    call.model, nodes, self._running, avoid=call.avoid, prefix_node=call.prefix_node
                )
                if name is None:
                    continue
                place = by_name[name].place(call.model)
                if place is None:
                    raise AssertionError(f"{name} was chosen for {call.model} without having it")
                assignment = Assignment(call.call_id, name, place.name)
                self._running[(name, place.name)] += 1
                self._held[call.call_id] = assignment
                del lane[call.call_id]
                made.append(assignment)
        return made

    def positions(self) -> dict[str, int]:
        """Each waiting call's place among those that wait for the same model, from 1."""
        seen: dict[str, int] = defaultdict(int)
        result: dict[str, int] = {}
        for lane in self._waiting.values():
            for call in lane.values():
                key = model_names.canonical(call.model)
                seen[key] += 1
                result[call.call_id] = seen[key]
        return result

    @property
    def waiting(self) -> int:
        return sum(len(lane) for lane in self._waiting.values())

    def running_on(self, node: str) -> int:
        return sum(count for (where, _), count in self._running.items() if where == node)
