"""The clock of a simulation: calls come, policies decide, nodes work, and things go wrong on time."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from common.protocol import CallClass
from master.cluster.lane_call import Assignment, Expired, Preempt
from tests.simulation.physics import Cluster, Happened, SimCall, Trouble
from tests.simulation.policies import Policy

_T = TypeVar("_T")
TICK_S = 0.5
HEARTBEAT_S = 2.0
SILENCE_S = 5.0  # until a sleeping node is found out
PREEMPT_S = 0.05


@dataclass(slots=True)
class Report:
    """What came of a run. Seconds; `decision_s` are the wall times of single decisions."""

    policy: str
    makespan: float = 0.0
    loads: int = 0
    calls: list[SimCall] = field(default_factory=list)
    decision_s: list[float] = field(default_factory=list)
    placed: list[tuple[float, str, str]] = field(default_factory=list)  # when, call, node
    overlaps: list[str] = field(default_factory=list)  # rules that were broken

    def waits(self, call_class: CallClass) -> list[float]:
        return sorted(
            one.first_started - one.submitted
            for one in self.calls
            if one.call_class == call_class and one.first_started is not None
        )


class Simulation:
    """`more(call, now)` is asked after each call's end which calls are due then: a council's next stage."""

    def __init__(
        self,
        cluster: Cluster,
        policy: Policy,
        *,
        arrivals: Iterable[tuple[float, SimCall]],
        more: Callable[[SimCall, float], Iterable[SimCall]] = lambda call, now: (),
        troubles: Iterable[Trouble] = (),
        until: float = float("inf"),
    ) -> None:
        self.cluster = cluster
        self.policy = policy
        self.report = Report(policy.name)
        self.now = 0.0
        self._more = more
        self._until = until
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._node_heap: list[tuple[float, int, str]] = []
        self._versions: dict[str, int] = dict.fromkeys(cluster.nodes, 0)
        self._open: dict[str, SimCall] = {}
        self._where: dict[str, str] = {}
        self._usable: dict[str, bool] = dict.fromkeys(cluster.nodes, True)
        self._ticking = False
        for at, call in arrivals:
            self._at(at, lambda call=call: self._submit(call))  # type: ignore[misc]  # bound now
        for trouble in troubles:
            self._at(trouble.at, lambda one=trouble: self._trouble(one))  # type: ignore[misc]  # bound now

    def run(self) -> Report:
        for node in self.cluster.nodes.values():
            self.policy.know(node.view(), 0.0)
        while True:
            at = min(
                self._agenda[0][0] if self._agenda else float("inf"),
                self._node_heap[0][0] if self._node_heap else float("inf"),
            )
            if at == float("inf") or at > self._until:
                break
            self.now = at
            while self._agenda and self._agenda[0][0] <= at:
                heapq.heappop(self._agenda)[2]()
            while self._node_heap and self._node_heap[0][0] <= at:
                _, version, name = heapq.heappop(self._node_heap)
                if version == self._versions[name]:
                    self._take(name, self.cluster.nodes[name].advance(at))
            self._decide()
        self.report.loads = sum(node.loads for node in self.cluster.nodes.values())
        self.report.makespan = max((one.ended or 0.0 for one in self.report.calls), default=0.0)
        return self.report

    # -- events ---------------------------------------------------------------------------------------------

    def _at(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), action))

    def _submit(self, call: SimCall) -> None:
        call.submitted = self.now
        self.report.calls.append(call)
        self._open[call.call_id] = call
        self._timed(lambda: self.policy.submit(call, self.now))
        if self.policy.hears_heartbeats and not self._ticking:
            self._ticking = True
            self._at(self.now + TICK_S, self._tick)

    def _tick(self) -> None:
        if not self._open:
            self._ticking = False
            return
        self._at(self.now + TICK_S, self._tick)
        if round(self.now / TICK_S) % round(HEARTBEAT_S / TICK_S) == 0:
            for name, node in self.cluster.nodes.items():
                if node.alive:
                    self.policy.know(node.view(usable=self._usable[name]), self.now)
        self.policy.pass_time()

    def _take(self, name: str, happened: list[Happened]) -> None:
        for one in happened:
            call = self._open[one.call_id]
            if one.kind == "started":
                call.first_started = self.now if call.first_started is None else call.first_started
                self.policy.started(one.call_id, self.now)
            else:
                self._end(call, one)
        self._schedule(name)

    def _end(self, call: SimCall, one: Happened) -> None:
        del self._open[call.call_id], self._where[call.call_id]
        call.ended = self.now
        call.runs += 1
        self.policy.ended(call.call_id, self.now, one.sample)
        for due in self._more(call, self.now):
            self._submit(due)

    def _schedule(self, name: str) -> None:
        self._versions[name] += 1
        at = self.cluster.nodes[name].next_at()
        if at < float("inf"):
            heapq.heappush(self._node_heap, (at, self._versions[name], name))

    def _trouble(self, trouble: Trouble) -> None:
        node = self.cluster.nodes[trouble.node]
        if node.alive:
            self._take(trouble.node, node.advance(self.now))
        if trouble.kind in ("slow", "recover"):
            node.slowdown = trouble.factor if trouble.kind == "slow" else 1.0
        elif trouble.kind == "return":
            self._lose_calls(trouble.node)
            node.alive, node.now = True, self.now
            node.reset()
            self._usable[trouble.node] = True
            self.policy.know(node.view(), self.now)
        else:
            node.alive = False
            delay = 0.0 if trouble.kind == "die" else SILENCE_S
            self._at(self.now + delay, lambda: self._lost(trouble.node))
        self._schedule(trouble.node)

    def _lost(self, name: str) -> None:
        """The master notices that a node is gone; its calls start anew elsewhere."""
        if self.cluster.nodes[name].alive:
            return
        self._usable[name] = False
        self.policy.know(self.cluster.nodes[name].view(usable=False), self.now)
        self._lose_calls(name)

    def _lose_calls(self, name: str) -> None:
        for call_id in [call_id for call_id, where in self._where.items() if where == name]:
            call = self._open[call_id]
            del self._where[call_id]
            call.failed += 1
            call.avoid = call.avoid | {name}
            self.policy.ended(call_id, self.now, None)
            self.policy.submit(call, self.now)

    # -- decisions ------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        while effects := self._timed(lambda: self.policy.decide(self.now)):
            for effect in effects:
                match effect:
                    case Assignment():
                        self._start(effect)
                    case Preempt(call_id=call_id):
                        self._at(self.now + PREEMPT_S, lambda call_id=call_id: self._preempt(call_id))  # type: ignore[misc]  # bound now
                    case Expired():
                        raise AssertionError("no deadlines here")

    def _start(self, assignment: Assignment) -> None:
        node = self.cluster.nodes[assignment.node]
        call = self._open[assignment.call_id]
        if call.call_id in self._where:
            self.report.overlaps.append(f"{call.call_id} was placed twice")
        self._where[call.call_id] = assignment.node
        call.attempts += 1
        self.report.placed.append((self.now, call.call_id, assignment.node))
        if not node.alive:
            if self._usable[assignment.node]:
                return  # asleep and not found out yet: it hangs there until it is
            raise AssertionError("a call was sent to a node that is known to be gone")
        happened = node.advance(self.now)
        if assignment.evict is not None:
            node.evict(assignment.evict)
        happened += node.submit(call)
        self._take(assignment.node, happened)

    def _preempt(self, call_id: str) -> None:
        name = self._where.get(call_id)
        if name is None:
            return
        node = self.cluster.nodes[name]
        if node.alive:
            self._take(name, node.advance(self.now))
        if self._where.pop(call_id, None) is None:
            return
        self._take(name, node.cancel(call_id))
        self._open[call_id].preempted += 1
        self.policy.preempted(call_id, self.now)

    def _timed(self, decision: Callable[[], _T]) -> _T:
        began = time.perf_counter()
        result = decision()
        self.report.decision_s.append(time.perf_counter() - began)
        return result
