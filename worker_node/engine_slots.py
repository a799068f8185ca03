"""How many calls of a model its engine really runs at once, found out from waits inside it: a pure core.

Ollama queues what is beyond its own slots without a word, and its slots need not be those that the node was
told of. Events and the time come in by method; no clock, no socket. The rules:

- A call has waited for a slot where the engine tells of a wait and the wait ended as another call ended that
  was there before it: a slot went from hand to hand. Then every slot was taken by calls that had come before
  it, and they are an upper bound of the slots. Other waits (a long prompt of a neighbour on a slow processor,
  somebody else's call, a second run of a thinking model) end at some other time and say nothing.
- Two such witnesses lower the slots, to what both of them allow; never below 1. A call that was served at
  once beside others refutes the witnesses that would not have allowed it.
- What was lowered is tried with one slot more after `RETRY_S`, and at once when the engine was restarted. A
  call that then is served at once beside all others lets the next slot be tried; where a try is refuted, the
  next one waits twice as long. So a wrong conclusion heals, and so does one that became wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile

from worker_node.engines.base import Finished

WITNESSES = 2
RETRY_S = 1800.0
_LONGEST_RETRY_S = 8 * RETRY_S
_LEAST_WAIT_S = 0.25  # shorter ones are templates, tokens and turns of the engine's loop
_LEAST_PART = 0.1  # of the time in which the call was served
_SLACK, _LEAST_SLACK_S, _MOST_SLACK_S = 0.25, 0.05, 0.5  # how near two moments are that may be the same one
_REMEMBERED = 64  # calls of a model that have ended


@dataclass(slots=True, eq=False)
class _Stay:
    """A call inside the engine. `wrote_s`: 0 where it did not come to its end."""

    model: str
    began: float
    ended: float = float("inf")
    wrote_s: float = 0.0


@dataclass(slots=True)
class _Belief:
    """The slots of a model: what the settings say, and what is believed."""

    told: int
    slots: int
    witnesses: list[int] = field(default_factory=list)
    since: float = 0.0  # of the last change
    retry_s: float = RETRY_S
    trying: bool = False

    @property
    def lowered(self) -> bool:
        return self.slots < self.told

    def try_one_more(self, now: float) -> None:
        self.slots, self.since, self.trying = self.slots + 1, now, True
        self.witnesses.clear()

    def served_beside(self, others: int, now: float) -> None:
        """A call was served at once while so many others were."""
        at_once = others + 1
        self.witnesses = [bound for bound in self.witnesses if bound >= at_once]
        self.slots = max(self.slots, min(at_once, self.told))
        if self.trying and self.lowered and at_once >= self.slots:
            self.try_one_more(now)

    def waited_behind(self, bound: int, now: float) -> None:
        """A call waited for a slot while no more than `bound` others can have had one."""
        if bound >= self.slots:
            return
        self.witnesses.append(bound)
        if len(self.witnesses) == WITNESSES:
            self.retry_s = min(2 * self.retry_s, _LONGEST_RETRY_S) if self.trying else RETRY_S
            self.slots, self.since, self.trying = max(self.witnesses), now, False
            self.witnesses = [one for one in self.witnesses if one < self.slots]


class EngineSlots:
    """The slots of one engine's models. Times are seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._beliefs: dict[str, _Belief] = {}
        self._here: dict[int, _Stay] = {}
        self._left: dict[str, deque[_Stay]] = {}

    def slots(self, model: str, told: int, now: float) -> int:
        """How many calls may be sent at once, where the settings and the model allow `told`."""
        belief = self._beliefs.get(model)
        if belief is None or belief.told != told:
            belief = self._beliefs[model] = _Belief(told, told)
        if belief.lowered and now - belief.since >= belief.retry_s:
            belief.try_one_more(now)
        return belief.slots

    def began(self, call_id: int, model: str, now: float) -> None:
        """A call of a resident model is sent to the engine."""
        self._here[call_id] = _Stay(model, now)

    def ended(self, call_id: int, now: float, finished: Finished | None) -> bool:
        """A call ended; `finished` is `None` where it broke off. True when the slots changed by it."""
        stay = self._here.pop(call_id)
        stay.ended = now
        left = self._left.setdefault(stay.model, deque(maxlen=_REMEMBERED))
        belief = self._beliefs.get(stay.model)
        before = None if belief is None else belief.slots
        if belief is not None and finished is not None:
            stay.wrote_s = (finished.generate_ms or 0.0) / 1000
            self._judge(belief, stay, finished, left)
        left.append(stay)
        return belief is not None and belief.slots != before

    def restarted(self, now: float) -> None:
        """The engine was away: it may have come back with other slots."""
        for belief in self._beliefs.values():
            if belief.lowered and not belief.trying:
                belief.try_one_more(now)

    def forget(self) -> None:
        """It is another engine now."""
        self._beliefs.clear()

    def _judge(self, belief: _Belief, stay: _Stay, finished: Finished, left: deque[_Stay]) -> None:
        if finished.queue_ms is None:
            return
        waited_s = finished.queue_ms / 1000
        served_s = ((finished.prompt_ms or 0.0) + (finished.generate_ms or 0.0)) / 1000
        served_from = stay.ended - served_s
        others = [one for one in self._here.values() if one.model == stay.model]
        others += takewhile(lambda one: one.ended > stay.began, reversed(left))
        if waited_s < _LEAST_WAIT_S:
            first, last = stay.began - _LEAST_WAIT_S, max(served_from, stay.began) + _LEAST_WAIT_S
            beside = sum(one.began <= first and one.ended >= last for one in others)
            if beside:
                belief.served_beside(beside, stay.ended)
        elif waited_s >= _LEAST_PART * served_s:
            slack = min(max(_SLACK * min(waited_s, served_s), _LEAST_SLACK_S), _MOST_SLACK_S)
            before = [one for one in others if one.began <= stay.began + slack]
            # Who wrote for a moment only may as well have held the engine up with its prompt.
            if any(abs(one.ended - served_from) <= slack < one.wrote_s for one in before):
                belief.waited_behind(sum(one.ended >= served_from - slack for one in before), stay.ended)
