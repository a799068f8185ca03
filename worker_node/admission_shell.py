"""The asyncio shell around `admission`: a ticket per call, woken when its place in the queue changes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable

from common.errors import CouncilError, NodeDrainingError, PreemptedError, QueueFullError
from common.protocol import CallClass
from worker_node.admission import Admission, Admit, Decision, Moved, Preempt


class Ticket:
    """One call's place: either `admitted`, or waiting at `position`. `on_preempt` ends it for an interactive
    call; a call that has none does not yield.
    """

    __slots__ = (
        "_refusal", "_wake", "admitted", "admitted_at", "call_id", "model", "on_preempt", "position"
    )  # fmt: skip

    def __init__(
        self, call_id: int, model: str, on_preempt: Callable[[CouncilError], None] | None = None
    ) -> None:
        self.on_preempt = on_preempt
        self.call_id = call_id
        self.model = model
        self.admitted = False
        self.admitted_at = 0.0
        self.position = 0
        self._refusal: CouncilError | None = None
        self._wake: asyncio.Future[None] | None = None

    async def changed(self) -> None:
        """Wait until the position changes or the call is admitted. Raises the refusal if it is sent away."""
        if self._refusal is None:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self._refusal is not None:
            raise self._refusal

    def apply(self, decision: Decision) -> None:
        if isinstance(decision, Admit):
            self.admitted = True
            self.admitted_at = time.monotonic()
        elif isinstance(decision, Moved):
            self.position = decision.position
        elif isinstance(decision, Preempt):
            if self.on_preempt is not None:
                self.on_preempt(PreemptedError("an interactive call needed the slot", model=self.model))
            return
        else:
            self._refusal = _refusal(self.model, decision.reason, decision.retry_after_s)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    @property
    def refusal(self) -> CouncilError | None:
        return self._refusal


def _refusal(model: str, reason: str, retry_after_s: float) -> CouncilError:
    if reason == "draining":
        return NodeDrainingError("the node is stopping; send the call to another node", model=model)
    return QueueFullError(
        f"no slot for {model} is free and the node's queue is full; try again in about "
        f"{retry_after_s:.0f} s, use another node, or raise COUNCIL_NODE_MAX_QUEUE",
        model=model,
        retry_after_s=retry_after_s,
    )


class AdmissionShell:
    """Hands out tickets of one engine. Used on one event loop only."""

    def __init__(self, core: Admission) -> None:
        self.core = core
        self._ids = itertools.count(1)
        self._tickets: dict[int, Ticket] = {}

    def arrive(
        self,
        model: str,
        call_class: CallClass,
        slots: int,
        *,
        on_preempt: Callable[[CouncilError], None] | None = None,
    ) -> Ticket:
        """Join. Raises `QueueFullError` or `NodeDrainingError`; who gets a ticket must `leave`.

        `on_preempt`: how to end the call for an interactive one, where it yields.
        """
        ticket = Ticket(next(self._ids), model, on_preempt)
        self._tickets[ticket.call_id] = ticket
        yields = on_preempt is not None
        self._apply(self.core.arrive(ticket.call_id, model, call_class, slots, yields=yields))
        if ticket.refusal is not None:
            raise ticket.refusal
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the slot or the place in the queue back. Harmless when the call was refused meanwhile."""
        if self._tickets.pop(ticket.call_id, None) is None:
            return
        if ticket.admitted:
            held_s = time.monotonic() - ticket.admitted_at
            self._apply(self.core.release(ticket.call_id, held_s))
        else:
            self._apply(self.core.cancel(ticket.call_id))

    def resize(self, model: str, slots: int) -> None:
        """The engine gives the model so many slots from now on."""
        self._apply(self.core.resize(model, slots))

    def drain(self) -> None:
        """Refuse who waits and who comes."""
        self._apply(self.core.drain())

    def resume(self) -> None:
        self.core.resume()

    def _apply(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            ticket = self._tickets[decision.call_id]
            ticket.apply(decision)
            if ticket.refusal is not None:
                del self._tickets[decision.call_id]
