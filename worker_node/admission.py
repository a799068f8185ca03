"""Who may call an engine now, who waits, and at which position: a pure core.

Events come in by method, decisions go out as a list; no clock, no socket, no task. The rules:

- never more calls on a model than its slots, never calls on more than `max_resident` models at once;
- interactive before background, first come first served within a class and model;
- a background call that said it yields is ended for an interactive one that waits for its slot: two masters
  may send here, and neither knows what the other has running;
- a call that needs a place for another model is not starved by later calls to the models that hold the
  places: the one nearest to idle admits nobody who came later, until its place is free;
- at most `max_queue` wait. Where an interactive call meets a full queue, the youngest background call
  gives way, because its caller can wait better;
- while draining nobody new is admitted, and those who wait are sent elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from common.protocol import CallClass

_MEAN_WEIGHT = 0.2  # of the newest call in the running mean of how long a slot is held
_LONGEST_RETRY_S = 120.0

RefusalReason = Literal["queue_full", "draining"]


@dataclass(frozen=True, slots=True)
class Admit:
    """The call holds a slot from now on, until `release`."""

    call_id: int


@dataclass(frozen=True, slots=True)
class Moved:
    """The call waits; `position` 1 is next among the calls to its model."""

    call_id: int
    position: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The call is forgotten. `retry_after_s` is when a slot may be free, as far as one can tell."""

    call_id: int
    reason: RefusalReason
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Preempt:
    """End this running call; its slot is free once it is released."""

    call_id: int


Decision = Admit | Moved | Refuse | Preempt


@dataclass(slots=True)
class _Waiter:
    model: str
    position: int = 0


class Admission:
    """The admission state of one engine."""

    def __init__(self, *, max_resident: int, max_queue: int, expected_call_s: float = 5.0) -> None:
        """`expected_call_s` is the first guess of how long a slot is held, before any call ended."""
        if max_resident < 1 or max_queue < 0:
            raise ValueError("max_resident is at least 1, max_queue at least 0")
        self._max_resident = max_resident
        self._max_queue = max_queue
        self._mean_held_s = expected_call_s
        self._slots: dict[str, int] = {}
        self._running: dict[int, str] = {}
        self._busy: dict[str, int] = {}
        self._yielding: dict[int, str] = {}  # calls that yield, waiting or running, the oldest first
        self._leaving: dict[int, str] = {}  # preempted, and not released yet
        self._interactive: dict[int, _Waiter] = {}
        self._background: dict[int, _Waiter] = {}
        self._draining = False

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._interactive) + len(self._background)

    @property
    def draining(self) -> bool:
        return self._draining

    def busy(self, model: str) -> int:
        """How many calls hold a slot of the model."""
        return self._busy.get(model, 0)

    def arrive(
        self, call_id: int, model: str, call_class: CallClass, slots: int, *, yields: bool = False
    ) -> list[Decision]:
        """A call comes. `slots` is what the engine gives the model now; `call_id` is new to this object.

        `yields`: a background call whose caller starts it again when it was ended for an interactive one.
        """
        if call_id in self._running or call_id in self._interactive or call_id in self._background:
            raise ValueError(f"call {call_id} is already known")
        self._slots[model] = max(1, slots)
        if self._draining:
            return [Refuse(call_id, "draining", self._retry_after_s(model))]
        lane = self._interactive if call_class == "interactive" else self._background
        lane[call_id] = _Waiter(model)
        if yields and call_class == "background":
            self._yielding[call_id] = model
        decisions = self._admit()
        if self.waiting > self._max_queue and call_id in lane:
            victim = call_id
            if call_class == "interactive" and self._background:
                victim = next(reversed(self._background))
            waiter = self._forget(victim)
            refusal = Refuse(victim, "queue_full", self._retry_after_s(waiter.model))
            decisions = [refusal, *decisions, *self._admit()]
        return decisions + self._moves() + self._preempt()

    def release(self, call_id: int, held_s: float) -> list[Decision]:
        """A running call ended, however it ended, after `held_s` seconds in its slot."""
        model = self._running.pop(call_id)
        self._yielding.pop(call_id, None)
        self._leaving.pop(call_id, None)
        self._mean_held_s += _MEAN_WEIGHT * (held_s - self._mean_held_s)
        left = self._busy[model] - 1
        if left:
            self._busy[model] = left
        else:
            del self._busy[model]
        return self._admit() + self._moves() if self.waiting else []

    def cancel(self, call_id: int) -> list[Decision]:
        """A waiting call's caller left."""
        self._forget(call_id)
        # It may have held others back: a call that waited for a place bars the model next to idle.
        return self._admit() + self._moves() if self.waiting else []

    def resize(self, model: str, slots: int) -> list[Decision]:
        """The engine gives the model so many slots from now on; who holds one keeps it."""
        self._slots[model] = max(1, slots)
        return self._admit() + self._moves() if self.waiting else []

    def drain(self) -> list[Decision]:
        """Stop admitting. Everybody who waits is refused; who runs may end."""
        self._draining = True
        refused: list[Decision] = [
            Refuse(call_id, "draining", self._retry_after_s(waiter.model))
            for call_id, waiter in self._order()
        ]
        for call_id in self._background:
            self._yielding.pop(call_id, None)
        self._interactive.clear()
        self._background.clear()
        return refused

    def resume(self) -> None:
        """Admit again after `drain`."""
        self._draining = False

    def _order(self) -> Iterator[tuple[int, _Waiter]]:
        yield from self._interactive.items()
        yield from self._background.items()

    def _forget(self, call_id: int) -> _Waiter:
        lane = self._interactive if call_id in self._interactive else self._background
        self._yielding.pop(call_id, None)
        return lane.pop(call_id)

    def _preempt(self) -> list[Decision]:
        """End as many calls that yield as interactive ones wait for slots of their model."""
        if not self._interactive or not self._yielding:
            return []
        ended: list[Decision] = []
        wanted = Counter(waiter.model for waiter in self._interactive.values())
        wanted.subtract(self._leaving.values())
        for call_id, model in reversed(list(self._yielding.items())):  # the youngest has least to lose
            if wanted[model] > 0 and call_id in self._running and call_id not in self._leaving:
                wanted[model] -= 1
                self._leaving[call_id] = model
                ended.append(Preempt(call_id))
        return ended

    def _admit(self) -> list[Decision]:
        """Give slots away in order, passing over the models that cannot take the next call."""
        admitted: list[Decision] = []
        closed: set[str] = set()
        with_elders: set[str] = set()
        for call_id, waiter in list(self._order()):
            model = waiter.model
            busy = self._busy.get(model, 0)
            if model not in closed and busy < self._slots[model]:
                if busy or len(self._busy) < self._max_resident:
                    lane = self._interactive if call_id in self._interactive else self._background
                    del lane[call_id]
                    self._running[call_id] = model
                    self._busy[model] = busy + 1
                    admitted.append(Admit(call_id))
                    continue
                self._bar_the_model_next_to_idle(closed, with_elders)
            closed.add(model)
            with_elders.add(model)
        return admitted

    def _bar_the_model_next_to_idle(self, closed: set[str], with_elders: set[str]) -> None:
        # A model with a waiter ahead of this call keeps its turn. Among the rest the least busy is barred:
        # its count can only fall, so the smallest count falls to 0 and the call gets its place.
        free = [(busy, model) for model, busy in self._busy.items() if model not in with_elders]
        candidates = [pair for pair in free if pair[1] not in closed]
        if candidates:
            closed.add(min(candidates)[1])

    def _moves(self) -> list[Decision]:
        moves: list[Decision] = []
        ahead: dict[str, int] = {}
        for call_id, waiter in self._order():
            position = ahead[waiter.model] = ahead.get(waiter.model, 0) + 1
            if position != waiter.position:
                waiter.position = position
                moves.append(Moved(call_id, position))
        return moves

    def _retry_after_s(self, model: str) -> float:
        ahead = sum(1 for _, waiter in self._order() if waiter.model == model) + 1
        estimate = self._mean_held_s * ahead / self._slots[model]
        return min(_LONGEST_RETRY_S, max(1.0, round(estimate, 1)))
