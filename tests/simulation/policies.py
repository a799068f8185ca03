"""Who decides where calls run: our lanes, and what load balancers do."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from math import inf
from typing import Protocol

from master.cluster.lane_call import Assignment, Effect, LaneCall
from master.cluster.lanes import Lanes
from master.cluster.placement import NodeView
from master.cluster.speeds import Sample, Speeds
from tests.simulation.physics import NodeSpec, SimCall


class Policy(Protocol):
    """`hears_heartbeats`: whether time passing and what nodes tell now and then changes what it decides."""

    name: str
    hears_heartbeats: bool

    def know(self, view: NodeView, now: float) -> None: ...

    def submit(self, call: SimCall, now: float) -> None: ...

    def started(self, call_id: str, now: float) -> None: ...

    def ended(self, call_id: str, now: float, sample: Sample | None) -> None: ...

    def preempted(self, call_id: str, now: float) -> None: ...

    def pass_time(self) -> None: ...

    def decide(self, now: float) -> list[Effect]: ...


class Ours:
    """The master's lanes, as they are. `known`: with speeds learned already."""

    name = "ours"
    hears_heartbeats = True

    def __init__(
        self, specs: Iterable[NodeSpec], *, known: bool = True, max_waiting: int = 1_000_000
    ) -> None:
        speeds = Speeds()
        if known:
            speeds.restore(row for spec in specs for row in spec.known())
        self.lanes = Lanes(max_waiting=max_waiting, speeds=speeds)

    def know(self, view: NodeView, now: float) -> None:
        self.lanes.know(view, now)

    def submit(self, call: SimCall, now: float) -> None:
        prompt, answer = call.guessed or (call.prompt_tokens, call.answer_tokens)
        self.lanes.submit(
            LaneCall(
                call.call_id,
                call.model,
                call.call_class,
                dict.fromkeys(call.avoid, inf),
                session_id=call.session_id,
                prefix_key=call.prefix_key,
                prompt_tokens=prompt,
                expected_tokens=answer,
                keeps=call.keeps,
            ),
            now,
        )

    def started(self, call_id: str, now: float) -> None:
        self.lanes.started(call_id, now)

    def ended(self, call_id: str, now: float, sample: Sample | None) -> None:
        self.lanes.release(call_id, now, sample)

    def preempted(self, call_id: str, now: float) -> None:
        self.lanes.requeue(call_id, now)

    def pass_time(self) -> None:
        self.lanes.pass_time()

    def decide(self, now: float) -> list[Effect]:
        return self.lanes.decide(now)


class _Balancer:
    """What balancers share: they know which node has which model and which answers, nothing of residency."""

    name = "balancer"
    hears_heartbeats = False

    def __init__(self, specs: Iterable[NodeSpec], *, bounded: bool) -> None:
        self._having: dict[str, list[str]] = {}
        self._room: dict[str, float] = {}
        for spec in specs:
            # `maxconn`: as many connections as the engine has slots.
            slots = max(model.slots for model in spec.models.values()) * spec.max_loaded
            self._room[spec.name] = slots if bounded else math.inf
            for model in spec.models:
                self._having.setdefault(model, []).append(spec.name)
        self._usable: dict[str, bool] = {}
        self._waiting: OrderedDict[str, SimCall] = OrderedDict()
        self._held: dict[str, tuple[str, SimCall]] = {}
        self._connections: dict[str, int] = dict.fromkeys(self._room, 0)
        self._changed = False

    def know(self, view: NodeView, now: float) -> None:
        self._usable[view.name] = bool(view.usable)
        self._changed = True

    def submit(self, call: SimCall, now: float) -> None:
        self._waiting[call.call_id] = call
        self._changed = True

    def started(self, call_id: str, now: float) -> None:
        return

    def preempted(self, call_id: str, now: float) -> None:
        raise AssertionError("a balancer pre-empts nobody")

    def pass_time(self) -> None:
        return

    def ended(self, call_id: str, now: float, sample: Sample | None) -> None:
        self._waiting.pop(call_id, None)
        held = self._held.pop(call_id, None)
        if held is not None:
            self._connections[held[0]] -= 1
            self._changed = True

    def decide(self, now: float) -> list[Effect]:
        made: list[Effect] = []
        if not self._changed:
            return made
        self._changed = False
        full: set[str] = set()
        for call in list(self._waiting.values()):
            if len(full) == len(self._having):
                break
            if call.model in full:
                continue
            takers = [
                name
                for name in self._having[call.model]
                if self._usable.get(name) and self._connections[name] < self._room[name]
            ]
            if not takers:
                full.add(call.model)
                continue
            chosen = self._choose(call, takers)
            del self._waiting[call.call_id]
            self._held[call.call_id] = (chosen, call)
            self._connections[chosen] += 1
            made.append(Assignment(call.call_id, chosen, call.model))
        return made

    def _choose(self, call: SimCall, takers: list[str]) -> str:
        raise NotImplementedError


class RoundRobin(_Balancer):
    name = "round robin"

    def __init__(self, specs: Iterable[NodeSpec]) -> None:
        super().__init__(specs, bounded=False)
        self._turn = 0

    def _choose(self, call: SimCall, takers: list[str]) -> str:
        self._turn += 1
        return takers[self._turn % len(takers)]


class LeastConnections(_Balancer):
    """With a queue of its own before nodes whose slots are taken, as HAProxy's `leastconn` with `maxconn`."""

    name = "least connections"

    def __init__(self, specs: Iterable[NodeSpec]) -> None:
        super().__init__(specs, bounded=True)

    def _choose(self, call: SimCall, takers: list[str]) -> str:
        return min(takers, key=lambda name: (self._connections[name], name))


class LeastConnectionsWithAffinity(LeastConnections):
    """The node that served this model for this prompt's opening last, where it has room."""

    name = "least connections + affinity"

    def __init__(self, specs: Iterable[NodeSpec]) -> None:
        super().__init__(specs)
        self._last: dict[tuple[str, str | None], str] = {}

    def _choose(self, call: SimCall, takers: list[str]) -> str:
        key = (call.model, call.prefix_key)
        known = self._last.get(key)
        chosen = known if known in takers and known is not None else super()._choose(call, takers)
        self._last[key] = chosen
        return chosen


PolicyClass = type[Ours] | type[RoundRobin] | type[LeastConnections] | type[LeastConnectionsWithAffinity]
PEERS: tuple[PolicyClass, ...] = (RoundRobin, LeastConnections, LeastConnectionsWithAffinity)
POLICIES: tuple[PolicyClass, ...] = (Ours, *PEERS)
