"""The slots of the cluster, handed out: the shell around the lanes in which calls wait for theirs.

One for the master. A call waits by `wait`, holds its slot from then on, and gives it back by `free`; a call
that made room for another one waits again, at its old place. Nodes are looked at as they change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from common import errors
from common.logs import get_logger
from master.cluster.attempt import Attempt, Limits
from master.cluster.breaker import Breaker
from master.cluster.calls import Call, CallWatcher
from master.cluster.homes import homes, no_home
from master.cluster.lane_call import Assignment, Effect, Expired, LaneCall, Preempt
from master.cluster.lanes import Lanes
from master.cluster.registry import Node, Registry
from master.metrics import CALLS_WAITING

_TICK_S = 0.5
_CHARACTERS_PER_TOKEN = 4.0
_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Waiter:
    """A call that waits for its slot."""

    call: Call
    watcher: CallWatcher
    slot: asyncio.Future[Assignment]
    since: float
    homeless_since: float | None = None
    position: int | None = None


class Slots:
    """`attempts` are those of the calls that hold a slot, by call; they may be pre-empted from here."""

    def __init__(self, registry: Registry, lanes: Lanes, limits: Limits) -> None:
        self.lanes = lanes
        self.attempts: dict[str, Attempt] = {}
        self._registry = registry
        self._limits = limits
        self._waiters: dict[str, Waiter] = {}
        # Calls that show whether what has failed is well again, until they are over.
        self._probes: dict[str, tuple[Node, list[Breaker]]] = {}
        self._known: set[str] = set()
        self._ticking = False
        self._pumping = False
        registry.on_change = self._node_changed

    def wait(
        self,
        call: Call,
        watcher: CallWatcher,
        avoid: Mapping[str, float],
        last_start: float,
        *,
        again: bool = False,
    ) -> Waiter:
        """Let a call wait until it may start; none begins after `last_start`. Raises `QueueFullError`."""
        now = time.monotonic()
        lengths = [len(one.content) for one in call.messages]
        self.lanes.submit(
            LaneCall(
                call.call_id,
                call.model,
                call.call_class,
                dict(avoid),
                session_id=call.session_id,
                prefix_key=call.prefix_key,
                conversation_key=call.conversation_key,
                prompt_tokens=sum(lengths) / _CHARACTERS_PER_TOKEN,
                opening_tokens=sum(lengths[:-1]) / _CHARACTERS_PER_TOKEN,
                expected_tokens=call.expected_tokens,
                deadline=min(now + self._limits.queue_s, last_start),
                keeps=call.keeps,
                engine=call.engine,
                let_in=call.let_in or again,
            ),
            now,
        )
        return self._wait(call, watcher)

    def _wait(self, call: Call, watcher: CallWatcher) -> Waiter:
        now = time.monotonic()
        slot: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        waiter = self._waiters[call.call_id] = Waiter(call, watcher, slot, now)
        if call.session_id is None and len(self._waiters) == 1:
            self._hand_out()  # a call by itself: there is nothing to place it together with
        else:
            self._hand_out_soon()
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._tick_s, self._tick)
        return waiter

    def wait_again(self, call: Call, watcher: CallWatcher) -> Waiter:
        """Let a call that made room for another one wait where it had waited."""
        attempt = self.attempts.pop(call.call_id)
        self._probe_over(call.call_id)
        self.lanes.requeue(call.call_id, time.monotonic(), loads_on=attempt.loads_on)
        return self._wait(call, watcher)

    def free(self, call_id: str, *, failed: bool = False) -> None:
        """Give back what the call holds. Harmless when that is nothing."""
        attempt = self.attempts.pop(call_id, None)
        self._probe_over(call_id)
        loads_on = attempt is not None and attempt.loads_on and not failed
        self.lanes.release(call_id, time.monotonic(), loads_on=loads_on)
        if self.lanes.waiting:
            self._hand_out_soon()
        else:
            CALLS_WAITING.set(0)

    def leave(self, call_id: str) -> None:
        """The call is over, or its caller has gone: forget its place in the queue, and give back its slot."""
        self._waiters.pop(call_id, None)
        self.lanes.withdraw(call_id)
        self.free(call_id)

    def know(self, node: Node) -> None:
        """Take in what a node is like now."""
        now = time.monotonic()
        self.lanes.know(node.view(now), now)

    def pump(self) -> None:
        """Look at every node again (one was drained, resumed, added or removed) and hand free slots out."""
        for gone in self._known - set(self._registry.nodes):
            self.lanes.forget(gone)
        self._known = set(self._registry.nodes)
        for node in self._registry.nodes.values():
            self.know(node)
        self._hand_out()

    def _node_changed(self, node: Node) -> None:
        if self._registry.nodes.get(node.name) is node:
            self._known.add(node.name)
            self.know(node)
            self._hand_out_soon()
        else:
            self.pump()

    # -- handing out -----------------------------------------------------------------------------------------

    def _hand_out_soon(self) -> None:
        """Once per turn of the loop, so that the calls of a stage are placed together."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._pumping = False
        while effects := self.lanes.decide(time.monotonic()):
            for effect in effects:
                try:
                    self._carry_out(effect)
                except Exception as error:
                    _log.exception("effect lost", call_id=effect.call_id, effect=type(effect).__name__)
                    self._end(effect.call_id, error)
        CALLS_WAITING.set(self.lanes.waiting)
        self._tell(self.lanes.moved())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Assignment(call_id=call_id):
                self._assign(call_id, effect)
            case Preempt(call_id=call_id):
                attempt = self.attempts.get(call_id)
                if attempt is not None:
                    attempt.preempt()
            case Expired(call_id=call_id):
                self._expire(call_id)

    def _assign(self, call_id: str, assignment: Assignment) -> None:
        waiter = self._waiters.get(call_id)
        node = self._registry.nodes.get(assignment.node)
        if waiter is None or waiter.slot.done():
            self.lanes.release(call_id, time.monotonic())
            return
        if node is None:  # it is being removed
            self.lanes.forget(assignment.node)
            self.lanes.requeue(call_id, time.monotonic())
            return
        now = time.monotonic()
        of_engine, of_model = breakers = breakers_of(node, assignment)
        all_closed = of_engine.is_closed and of_model.is_closed
        if not all_closed and not self._probe(call_id, node, breakers, now):
            return
        # Made here and not by the caller, who hears of it a turn later: it may be pre-empted until then.
        self.attempts[call_id] = Attempt(assignment.node, waiter.call.model, waiter.since, now)
        waiter.slot.set_result(assignment)

    def _probe(self, call_id: str, node: Node, breakers: tuple[Breaker, ...], now: float) -> bool:
        """Let the call show whether what failed there is well again. False where another one is about to:
        the lanes place a batch at a time, and the rest of it waits for what that one shows.
        """
        may = all(breaker.allows(now) for breaker in breakers)
        if may:
            for breaker in breakers:
                breaker.sent(now)
            self._probes[call_id] = node, [breaker for breaker in breakers if not breaker.is_closed]
        self.know(node)
        if not may:
            self.lanes.requeue(call_id, now)
        return may

    def _probe_over(self, call_id: str) -> None:
        """However a probe ended, also before it was sent: where nothing was learned the next call is one."""
        probe = self._probes.pop(call_id, None)
        if probe is None:
            return
        node, breakers = probe
        for breaker in breakers:
            breaker.returned()
        if self._registry.nodes.get(node.name) is node:
            self.know(node)

    def _expire(self, call_id: str) -> None:
        waiter = self._waiters.get(call_id)
        if waiter is not None and not waiter.slot.done():
            waited_s = time.monotonic() - waiter.since
            waiter.slot.set_exception(
                errors.QueueTimeoutError(
                    f"no slot for {waiter.call.model} became free in {waited_s:.0f} s",
                    model=waiter.call.model,
                )
            )

    def _end(self, call_id: str, error: Exception) -> None:
        """Let a call that waits end with an error of ours: its caller gives back what it holds."""
        waiter = self._waiters.get(call_id)
        if waiter is not None and not waiter.slot.done():
            waiter.slot.set_exception(error)

    # -- while calls wait ------------------------------------------------------------------------------------

    @property
    def _tick_s(self) -> float:
        return min(_TICK_S, max(self._limits.no_node_s / 2, 0.01))

    def _tick(self) -> None:
        """Time has passed: breakers half-open, held calls are due, and calls without a node give up."""
        waiting = [one for one in self._waiters.values() if not one.slot.done()]
        self._ticking = bool(waiting)
        if not waiting:
            return
        asyncio.get_running_loop().call_later(self._tick_s, self._tick)
        for node in self._registry.nodes.values():
            if not node.breaker.is_closed or not node.background_breaker.is_closed:
                self.know(node)
        self._give_up_without_a_home(waiting)
        self.lanes.pass_time()
        self._hand_out()
        self._tell(self.lanes.positions())

    def _give_up_without_a_home(self, waiting: list[Waiter]) -> None:
        now = time.monotonic()
        has_home: dict[tuple[str, str], bool] = {}
        for waiter in waiting:
            call = waiter.call
            key = (call.model, call.engine)
            if key not in has_home:
                has_home[key] = bool(homes(self._registry, call))
            patience_s = self._limits.no_node_s if call.no_node_s is None else call.no_node_s
            if has_home[key]:
                waiter.homeless_since = None
                continue
            if waiter.homeless_since is None:
                waiter.homeless_since = max(waiter.since, now - self._tick_s)  # since the look before
            if now - waiter.homeless_since >= patience_s:
                self.lanes.withdraw(waiter.call.call_id)
                waiter.slot.set_exception(no_home(self._registry, waiter.call))

    def _tell(self, positions: dict[str, int]) -> None:
        changed: dict[str, int] = {}
        for call_id, position in positions.items():
            waiter = self._waiters.get(call_id)
            if waiter is not None and waiter.position != position:
                waiter.position = changed[call_id] = position
        if not changed:
            return
        estimates = self.lanes.estimates(changed, time.monotonic())
        for call_id, position in changed.items():
            self._waiters[call_id].watcher.queued(position, estimates.get(call_id))


def breakers_of(node: Node, assignment: Assignment) -> tuple[Breaker, Breaker]:
    """Of the engine that the call runs on, and of its model there."""
    engine = assignment.engine
    return node.breaker_on(engine), node.breaker_of(assignment.model, engine)
