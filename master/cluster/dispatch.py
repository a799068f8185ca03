"""The shell that runs calls: lanes decide where and when, this streams them and starts them anew.

How often is said in `tries`. A background call that makes room for interactive work keeps its place in the
queue, and that counts as no failure. Whatever the counts say, no attempt begins once a call has taken what
one may take for queue, load and generation together.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from common import errors
from common.logs import bind, get_logger
from common.protocol import GenerateRequest
from master.cluster.attempt import Attempt, Limits, sample
from master.cluster.calls import Answer, Call, CallWatcher
from master.cluster.homes import homes
from master.cluster.lane_call import Assignment
from master.cluster.lanes import Lanes
from master.cluster.registry import Node, Registry
from master.cluster.slots import Slots, breakers_of
from master.cluster.speeds import Speeds
from master.cluster.tries import Tries
from master.metrics import calls

__all__ = ["Dispatcher", "Limits"]

AVOID_S = 20.0  # a node that has failed a call may be well again by then
# A model that does not fit, does not load or is not there says nothing of the others on its node.
_OF_THE_MODEL = (errors.OutOfMemoryError, errors.LoadTimeoutError, errors.ModelNotFoundError)
_NOBODYS_FAULT = (errors.NodeDrainingError, errors.PreemptedError)
_log = get_logger(__name__)


class Dispatcher:
    """Every model call of the product goes through `run`."""

    def __init__(
        self, registry: Registry, limits: Limits, *, max_waiting: int, speeds: Speeds | None = None
    ) -> None:
        self.registry = registry
        self.speeds = speeds or Speeds()
        self.lanes = Lanes(max_waiting=max_waiting, speeds=self.speeds)
        # An interactive call begins to wait or run, and is over.
        self.on_use: Callable[[], None] = lambda: None
        self.on_use_end: Callable[[], None] = lambda: None
        self._limits = limits
        self._slots = Slots(registry, self.lanes, limits)
        self._callers: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def run(self, call: Call, watcher: CallWatcher) -> Answer:
        """Run one call to its end. Raises the error of its last attempt, or why it found no node."""
        caller = asyncio.current_task()
        if self._stopping or caller is None:
            raise _stopped()
        self._callers.add(caller)
        is_use = call.call_class == "interactive"
        if is_use:
            self.on_use()
        try:
            return await self._run(call, watcher)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            caller.uncancel()
            raise _stopped() from None
        finally:
            self._callers.discard(caller)
            if is_use:
                self.on_use_end()

    def stop(self) -> None:
        """End every call that still runs, down to its engine: its caller hears that the master stops."""
        self._stopping = True
        for caller in self._callers:
            caller.cancel()

    def pump(self) -> None:
        """Look at every node again (one was drained, resumed, added or removed) and hand free slots out."""
        self._slots.pump()

    async def _run(self, call: Call, watcher: CallWatcher) -> Answer:
        avoid = dict.fromkeys(call.avoid, math.inf)
        tries, last_start = Tries(), time.monotonic() + self._limits.total_s
        waiter = self._slots.wait(call, watcher, avoid, last_start)
        try:
            while True:
                assignment = await waiter.slot
                attempt = self._slots.attempts[call.call_id]
                try:
                    with bind(call_id=call.call_id, node=assignment.node):
                        return await self._attempt(call, assignment, attempt, watcher)
                except errors.PreemptedError as error:
                    # Back in the queue first: who it made room for waits for its slot.
                    waiter = self._slots.wait_again(call, watcher)
                    calls(call.model, error.code).inc()
                    await watcher.attempt_failed(attempt.failure(error), will_restart=True)
                    continue
                except errors.CouncilError as error:
                    self._slots.free(call.call_id, failed=True)
                    left = {*avoid, attempt.node}
                    elsewhere = any(node.name not in left for node in homes(self.registry, call))
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
                waiter = self._slots.wait(call, watcher, avoid, last_start, again=True)
        finally:
            self._slots.leave(call.call_id)

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
        if any([breaker.succeeded() for breaker in breakers_of(node, assignment)]):
            self._slots.know(node)
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
        of_engine, of_model = breakers_of(node, assignment)
        if isinstance(error, _OF_THE_MODEL) or _restarts_its_model(error):
            of_model.failed(now, sent)
        elif isinstance(error, errors.RetryableError) and not isinstance(error, _NOBODYS_FAULT):
            of_engine.failed(now, sent)
        self._slots.know(node)


def _restarts_its_model(error: errors.CouncilError) -> bool:
    """An engine that says when it tries a model again is well otherwise: it has one process per model."""
    return isinstance(error, errors.EngineFailedError) and error.retry_after_s is not None


def _stopped() -> errors.NodeDrainingError:
    return errors.NodeDrainingError("the master is stopping; ask again when it is back", retry_after_s=5.0)
