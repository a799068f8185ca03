"""The shell that runs calls: lanes decide where and when, this streams them and starts them anew.

A call that fails at its node before its first token is tried on other nodes, at most `MAX_MOVES` times; after
the first token it is started anew once. A node that is stopping hands its call back, and a background call
makes room for interactive work: neither counts, and the latter keeps its place in the queue. Whatever the
counts say, no attempt begins once a call has taken what one may take for queue, load and generation together.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from common import errors
from common.logs import bind, get_logger
from common.protocol import GenerateRequest
from master.cluster.attempt import Attempt, Limits, sample
from master.cluster.breaker import Breaker
from master.cluster.calls import Answer, Call, CallWatcher
from master.cluster.lane_call import Assignment, Effect, Expired, LaneCall, Preempt
from master.cluster.lanes import Lanes
from master.cluster.registry import Node, Registry
from master.cluster.speeds import Speeds
from master.metrics import CALLS_WAITING, calls

__all__ = ["Dispatcher", "Limits"]

MAX_MOVES = 3
MAX_HAND_BACKS = 20
AVOID_S = 20.0  # a node that has failed a call may be well again by then
_TICK_S = 0.5
_CHARACTERS_PER_TOKEN = 4.0
# A model that does not fit, does not load or is not there says nothing of the others on its node.
_OF_THE_MODEL = (errors.OutOfMemoryError, errors.LoadTimeoutError, errors.ModelNotFoundError)
_NOBODYS_FAULT = (errors.NodeDrainingError, errors.PreemptedError)
_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for its slot."""

    call: Call
    watcher: CallWatcher
    slot: asyncio.Future[Assignment]
    since: float
    homeless_since: float | None = None
    position: int | None = None


@dataclass(slots=True)
class _Tries:
    """How often a call was started anew, by why. Raising the count is asking whether it may be."""

    moves: int = 0
    restarts: int = 0
    hand_backs: int = 0

    def again(self, error: errors.CouncilError, attempt: Attempt, *, elsewhere: bool) -> bool:
        if isinstance(error, errors.NodeDrainingError):
            self.hand_backs += 1
            return self.hand_backs <= MAX_HAND_BACKS
        again = isinstance(error, errors.RetryableError)
        if attempt.first_token is not None:
            self.restarts += 1
            return again and self.restarts <= 1
        self.moves += 1
        return (again and self.moves <= MAX_MOVES) or (
            isinstance(error, errors.ModelNotFoundError) and elsewhere
        )

    def pause_s(self) -> float:
        """Exponential, with jitter so that calls that failed together do not come back together."""
        return min(0.2 * 2.0 ** (self.moves + self.restarts), 5.0) * random.uniform(0.5, 1.0)


class Dispatcher:
    """Every model call of the product goes through `run`."""

    def __init__(
        self, registry: Registry, limits: Limits, *, max_waiting: int, speeds: Speeds | None = None
    ) -> None:
        self.registry = registry
        self.speeds = speeds or Speeds()
        self.lanes = Lanes(max_waiting=max_waiting, speeds=self.speeds)
        # Entered for as long as an interactive call waits or runs.
        self.in_use: Callable[[], AbstractContextManager[None]] = nullcontext
        self._limits = limits
        self._waiters: dict[str, _Waiter] = {}
        self._attempts: dict[str, Attempt] = {}
        # Calls that show whether what has failed is well again, until they are over.
        self._probes: dict[str, tuple[Node, list[Breaker]]] = {}
        self._callers: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._known: set[str] = set()
        self._ticking = False
        self._pumping = False
        registry.on_change = self._node_changed

    async def run(self, call: Call, watcher: CallWatcher) -> Answer:
        """Run one call to its end. Raises the error of its last attempt, or why it found no node."""
        caller = asyncio.current_task()
        if self._stopping or caller is None:
            raise _stopped()
        self._callers.add(caller)
        try:
            with self.in_use() if call.call_class == "interactive" else nullcontext():
                return await self._run(call, watcher)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            caller.uncancel()
            raise _stopped() from None
        finally:
            self._callers.discard(caller)

    def stop(self) -> None:
        """End every call that still runs, down to its engine: its caller hears that the master stops."""
        self._stopping = True
        for caller in self._callers:
            caller.cancel()

    async def _run(self, call: Call, watcher: CallWatcher) -> Answer:
        avoid = dict.fromkeys(call.avoid, math.inf)
        tries, last_start = _Tries(), time.monotonic() + self._limits.total_s
        waiter = self._enqueue(call, watcher, avoid, last_start)
        try:
            while True:
                assignment = await waiter.slot
                attempt = self._attempts[call.call_id]
                try:
                    with bind(call_id=call.call_id, node=assignment.node):
                        return await self._attempt(call, assignment, attempt, watcher)
                except errors.PreemptedError as error:
                    # Back in the queue first: who it made room for waits for its slot.
                    waiter = self._wait_again(call, watcher)
                    calls(call.model, error.code).inc()
                    await watcher.attempt_failed(attempt.failure(error), will_restart=True)
                    continue
                except errors.CouncilError as error:
                    self._free(call.call_id, failed=True)
                    elsewhere = self._elsewhere(call, {*avoid, attempt.node})
                    again = tries.again(error, attempt, elsewhere=elsewhere)
                    again = again and time.monotonic() < last_start
                    calls(call.model, error.code).inc()
                    _log.info(
                        "attempt failed", node=attempt.node, model=call.model, code=error.code, again=again
                    )
                    await watcher.attempt_failed(attempt.failure(error), will_restart=again)
                    if not again:
                        raise
                    avoid[attempt.node] = max(avoid.get(attempt.node, 0.0), time.monotonic() + AVOID_S)
                if not elsewhere:
                    await asyncio.sleep(tries.pause_s())
                waiter = self._enqueue(call, watcher, avoid, last_start, again=True)
        finally:
            self._waiters.pop(call.call_id, None)
            self.lanes.withdraw(call.call_id)
            self._free(call.call_id)

    # -- slots ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Look at every node again (one was drained, resumed, added or removed) and hand free slots out."""
        for gone in self._known - set(self.registry.nodes):
            self.lanes.forget(gone)
        self._known = set(self.registry.nodes)
        for node in self.registry.nodes.values():
            self._know(node)
        self._hand_out()

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
                attempt = self._attempts.get(call_id)
                if attempt is not None:
                    attempt.preempt()
            case Expired(call_id=call_id):
                self._expire(call_id)

    def _end(self, call_id: str, error: Exception) -> None:
        """Let a call that waits end with an error of ours: its caller gives back what it holds."""
        waiter = self._waiters.get(call_id)
        if waiter is not None and not waiter.slot.done():
            waiter.slot.set_exception(error)

    def _node_changed(self, node: Node) -> None:
        if self.registry.nodes.get(node.name) is node:
            self._known.add(node.name)
            self._know(node)
            self._hand_out_soon()
        else:
            self.pump()

    def _know(self, node: Node) -> None:
        now = time.monotonic()
        self.lanes.know(node.view(now), now)

    def _hand_out_soon(self) -> None:
        """Once per turn of the loop, so that the calls of a stage are placed together."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _assign(self, call_id: str, assignment: Assignment) -> None:
        waiter = self._waiters.get(call_id)
        node = self.registry.nodes.get(assignment.node)
        if waiter is None or waiter.slot.done():
            self.lanes.release(call_id, time.monotonic())
            return
        if node is None:  # it is being removed
            self.lanes.forget(assignment.node)
            self.lanes.requeue(call_id, time.monotonic())
            return
        now = time.monotonic()
        of_engine, of_model = breakers = _breakers(node, assignment)
        all_closed = of_engine.is_closed and of_model.is_closed
        if not all_closed and not self._probe(call_id, node, breakers, now):
            return
        # Made here and not by the caller, who hears of it a turn later: it may be pre-empted until then.
        self._attempts[call_id] = Attempt(assignment.node, waiter.call.model, waiter.since, now)
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
        self._know(node)
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
        if self.registry.nodes.get(node.name) is node:
            self._know(node)

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

    def _enqueue(
        self,
        call: Call,
        watcher: CallWatcher,
        avoid: dict[str, float],
        last_start: float,
        *,
        again: bool = False,
    ) -> _Waiter:
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

    def _wait_again(self, call: Call, watcher: CallWatcher) -> _Waiter:
        attempt = self._attempts.pop(call.call_id)
        self._probe_over(call.call_id)
        waiter = self._wait(call, watcher)
        self.lanes.requeue(call.call_id, time.monotonic(), loads_on=attempt.loads_on)
        return waiter

    def _wait(self, call: Call, watcher: CallWatcher) -> _Waiter:
        now = time.monotonic()
        slot: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        waiter = self._waiters[call.call_id] = _Waiter(call, watcher, slot, now)
        if call.session_id is None and len(self._waiters) == 1:
            self._hand_out()  # a call by itself: there is nothing to place it together with
        else:
            self._hand_out_soon()
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._tick_s, self._tick)
        return waiter

    def _free(self, call_id: str, *, failed: bool = False) -> None:
        attempt = self._attempts.pop(call_id, None)
        self._probe_over(call_id)
        loads_on = attempt is not None and attempt.loads_on and not failed
        self.lanes.release(call_id, time.monotonic(), loads_on=loads_on)
        if self.lanes.waiting:
            self._hand_out_soon()
        else:
            CALLS_WAITING.set(0)

    # -- while calls wait -----------------------------------------------------------------------------------

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
        for node in self.registry.nodes.values():
            if not node.breaker.is_closed or not node.background_breaker.is_closed:
                self._know(node)
        self._give_up_without_a_node(waiting)
        self.lanes.pass_time()
        self._hand_out()
        self._tell(self.lanes.positions())

    def _give_up_without_a_node(self, waiting: list[_Waiter]) -> None:
        now = time.monotonic()
        homes: dict[tuple[str, str], bool] = {}
        for waiter in waiting:
            call = waiter.call
            key = (call.model, call.engine)
            if key not in homes:
                homes[key] = bool(self._homes(call))
            patience_s = self._limits.no_node_s if call.no_node_s is None else call.no_node_s
            if homes[key]:
                waiter.homeless_since = None
                continue
            if waiter.homeless_since is None:
                waiter.homeless_since = max(waiter.since, now - self._tick_s)  # since the look before
            if now - waiter.homeless_since >= patience_s:
                self.lanes.withdraw(waiter.call.call_id)
                waiter.slot.set_exception(self._no_node(waiter.call))

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

    def _elsewhere(self, call: Call, avoid: set[str]) -> bool:
        return any(node.name not in avoid for node in self._homes(call))

    def _homes(self, call: Call) -> list[Node]:
        """Where the call may go sooner or later: engines that serve and have its model, of nodes that are not
        drained.
        """
        having = self.registry.nodes_with(call.model, engine=call.engine)
        return [node for node in having if not node.draining]

    def _no_node(self, call: Call) -> errors.CouncilError:
        drained = self.registry.nodes_with(call.model, engine=call.engine)
        if drained:
            names = " or ".join(f"`council worker resume {node.name}`" for node in drained)
            return errors.NodeUnreachableError(
                f"every node that answers and has {call.model} is drained and takes nothing new; "
                f"{names} lets calls go there again",
                node=drained[0].name,
                model=call.model,
            )
        known = self.registry.nodes_with(call.model, answering=False, engine=call.engine)
        if known:
            names = ", ".join(node.name for node in known)
            what = "node" if call.engine == "main" else "background engine"
            return errors.NodeUnreachableError(
                f"every {what} that has {call.model} is gone ({names}); see `council worker list`",
                node=known[0].name,
                model=call.model,
            )
        return errors.ModelUnavailableError(
            f"no node has {call.model} any more; see `council models list`", model=call.model
        )

    # -- one attempt ----------------------------------------------------------------------------------------

    async def _attempt(
        self, call: Call, assignment: Assignment, attempt: Attempt, watcher: CallWatcher
    ) -> Answer:
        node = self.registry.nodes.get(assignment.node)
        if node is None:
            raise errors.NodeUnreachableError(f"{assignment.node} was removed", node=assignment.node)
        await watcher.attempt_started(node.name)
        attempt.sent = attempt.phase_since = time.monotonic()
        limits = self._limits
        request = GenerateRequest(
            model=assignment.model,
            messages=list(call.messages),
            format=call.format,
            options=dict(call.options),
            think=call.think,
            call_class=call.call_class,
            engine=assignment.engine,
            deadline_ms=round(limits.total_s * 1000),
            request_id=call.call_id,
            traceparent=call.traceparent,
            yields=call.call_class == "background",
        )

        def running() -> None:
            self.lanes.started(call.call_id, time.monotonic())

        try:
            if assignment.evict is not None:
                await attempt.evict(node, assignment.evict, assignment.engine)
            done = await attempt.stream(node, request, watcher, limits, running)
        except errors.CouncilError as error:
            if error.node is None:
                error.node = node.name
            self._judge(node, assignment, error, attempt.sent)
            raise
        if any([breaker.succeeded() for breaker in _breakers(node, assignment)]):
            self._know(node)
        calls(call.model, "done").inc()
        self.lanes.release(call.call_id, time.monotonic(), sample(done))
        known = node.model(assignment.model, assignment.engine)
        return Answer(
            node.name,
            "".join(attempt.answer),
            "".join(attempt.thinking),
            done.done_reason,
            done.token_usage,
            attempt.latency(done),
            assignment.model,
            known is not None and known.practice,
            assignment.engine,
        )

    def _judge(self, node: Node, assignment: Assignment, error: errors.CouncilError, sent: float) -> None:
        """Count a failure against its engine, or against the model there, where one of them is to blame."""
        now = time.monotonic()
        of_engine, of_model = _breakers(node, assignment)
        if isinstance(error, _OF_THE_MODEL) or _restarts_its_model(error):
            of_model.failed(now, sent)
        elif isinstance(error, errors.RetryableError) and not isinstance(error, _NOBODYS_FAULT):
            of_engine.failed(now, sent)
        self._know(node)


def _restarts_its_model(error: errors.CouncilError) -> bool:
    """An engine that says when it tries a model again is well otherwise: it has one process per model."""
    return isinstance(error, errors.EngineFailedError) and error.retry_after_s is not None


def _breakers(node: Node, assignment: Assignment) -> tuple[Breaker, Breaker]:
    """Of the engine that the call runs on, and of its model there."""
    engine = assignment.engine
    return node.breaker_on(engine), node.breaker_of(assignment.model, engine)


def _stopped() -> errors.NodeDrainingError:
    return errors.NodeDrainingError("the master is stopping; ask again when it is back", retry_after_s=5.0)
