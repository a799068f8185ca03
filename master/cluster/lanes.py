"""Which call runs where and when, and which is pre-empted: pure. Events and the time come in, effects go out.

- Never more calls at a place (model on an engine of a node) than its slots. Interactive before background;
  within a class sessions take turns. A call whose model has no place holds up nobody behind it.
- Of two slots or more one is kept for interactive calls. Where there is one, background may use it and is
  pre-empted. It is also pre-empted when interactive work starts on its engine, unless the measured slowdown
  of sharing is at most 5 %. A pre-empted call waits again at its old place.
- Where no background call of a model has ended for `age_s`, the next one counts as interactive.
- A call may be held although a slot is free: where it would end sooner by waiting for a faster place, or for
  one that has its model already.

docs/decisions/0021-lanes.md
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.errors import QueueFullError
from common.protocol import CallClass, EngineName
from master.cluster import swaps
from master.cluster.choice import Choice, Chooser, Claim, Prefixes
from master.cluster.fair_queue import Ticket
from master.cluster.lane_call import Assignment, Effect, Expired, LaneCall, Preempt
from master.cluster.placement import Engine, NodeView, Place, Running
from master.cluster.places import Model, ModelKey, Places
from master.cluster.speeds import Sample, Speeds

CLASSES: tuple[CallClass, ...] = ("interactive", "background")
AGE_S = 300.0
LOOK_AHEAD = 12  # calls of a model that are weighed against waiting
_MOVES_TOLD = 32
_LONGEST_RETRY_S = 120.0


@dataclass(slots=True)
class Lanes:
    """The scheduler of the cluster. One task owns it."""

    max_waiting: int = 1000
    speeds: Speeds = field(default_factory=Speeds)
    age_s: float = AGE_S
    places: Places = field(init=False)
    _chooser: Chooser = field(init=False)
    _waiting: dict[str, LaneCall] = field(default_factory=dict)
    _running: dict[str, tuple[LaneCall, Running]] = field(default_factory=dict)
    _emptied: set[str] = field(default_factory=set)  # pre-empted so that an interactive call gets the slot
    _deadlines: list[tuple[float, str]] = field(default_factory=list)
    _arrivals: itertools.count[int] = field(default_factory=itertools.count)
    _moved: dict[ModelKey, Model] = field(default_factory=dict)
    _background_waiting: int = 0
    _replanning: bool = False
    # Engines that may get one call, by node.
    _probing: dict[str, frozenset[EngineName]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places = Places(self.speeds)
        self._chooser = Chooser(self.places, Prefixes())

    # -- events ---------------------------------------------------------------------------------------------

    def know(self, view: NodeView, now: float) -> None:
        """Take in what a node is like now."""
        self.places.know(view, now)
        self._probing[view.name] = frozenset(view.probing)

    def forget(self, node: str) -> None:
        self.places.forget(node)
        self._probing.pop(node, None)

    def submit(self, call: LaneCall, now: float) -> None:
        """Let a call wait. Raises `QueueFullError`; background may fill half of the queue."""
        model = self.places.of(call.model, call.engine)
        if not call.let_in:
            self.check_room(call.model, now, call_class=call.call_class, engine=call.engine)
        call.submitted = now
        call.ticket = model.queues[call.lane].join(
            call.call_id, call.session_id or call.call_id, next(self._arrivals)
        )
        if call.deadline < float("inf"):
            heapq.heappush(self._deadlines, (call.deadline, call.call_id))
        self._waits(model, call)

    def check_room(
        self,
        model: str,
        now: float,
        *,
        call_class: CallClass = "interactive",
        engine: EngineName = "main",
        coming: int = 0,
    ) -> None:
        """Raise `QueueFullError` where a call would not be let in after `coming` others."""
        background = call_class == "background"
        room = self.max_waiting if not background else max(self.max_waiting // 2, 1)
        waiting = (len(self._waiting) if not background else self._background_waiting) + coming
        if waiting >= room or len(self._waiting) + coming >= self.max_waiting:
            retry_after_s = self._retry_after_s(self.places.of(model, engine), now)
            raise QueueFullError(
                f"{waiting} calls wait for a model already; there may be room in {retry_after_s:.0f} s",
                model=model,
                retry_after_s=retry_after_s,
            )

    def withdraw(self, call_id: str) -> None:
        """Forget a call that waits; one that is unknown or runs is left alone."""
        call = self._waiting.get(call_id)
        if call is not None:
            model = self.places.of(call.model, call.engine)
            self._leave_queue(model, call, served=False)
            self._changed(model)
            model.aged -= call.aged

    def started(self, call_id: str, now: float) -> None:
        """The call generates: its model is resident and its load, if there was one, is over."""
        held = self._running.get(call_id)
        if held is not None:
            self.places.loaded(held[1].place, now)
            held[1].count_from(now)

    def release(
        self, call_id: str, now: float, sample: Sample | None = None, *, loads_on: bool = False
    ) -> None:
        """Give the slot of a call back, once; `sample` is what a call that ended well has shown.

        `loads_on`: if the call waited for its model to be loaded, the node goes on with that.
        """
        held = self._running.pop(call_id, None)
        if held is None:
            return
        call, running = held
        model = self.places.of(call.model, call.engine)
        model.aged -= call.aged
        if sample is not None and call.call_class == "background":
            model.background_ended_at = now
        self._give_back(model, call, running, now, sample, loads_on)
        if sample is not None:
            self._chooser.prefixes.remember(call, model.key, running.place.node)

    def requeue(self, call_id: str, now: float, *, loads_on: bool = False) -> None:
        """A pre-empted call let go of its slot: it waits again where it had waited."""
        held = self._running.pop(call_id, None)
        if held is None:
            return
        call, running = held
        model = self.places.of(call.model, call.engine)
        self._give_back(model, call, running, now, None, loads_on)
        call.held_since = None
        call.deadline += now - running.since  # in which it did not wait
        assert call.ticket is not None
        model.queues[call.lane].put_back(call.ticket)
        if call.deadline < float("inf"):
            heapq.heappush(self._deadlines, (call.deadline, call.call_id))
        self._waits(model, call)

    def pass_time(self) -> None:
        """Some time has passed: what was held may be due, what was predicted may be wrong by now."""
        self.places.touch_waited_for()
        self._replanning = True

    # -- decisions ------------------------------------------------------------------------------------------

    def decide(self, now: float) -> list[Effect]:
        """What is to be done after the events since this was asked last."""
        effects: list[Effect] = []
        if self._deadlines and self._deadlines[0][0] <= now:
            effects.extend(self._expire(now))
        places = self.places
        for _ in range(4):  # a decision may change what others can do: a drain ends, an engine falls idle
            if not places.dirty:
                break
            changes = dict(places.dirty)
            places.dirty.clear()
            models = [places.models[key] for key in changes]
            for model in models:
                self._promote_aged(model, now)
            for call_class in CLASSES:
                waited_for = [
                    model for model in models if self._has_news(model, call_class, changes[model.key], now)
                ]
                if len(waited_for) > 1:
                    for model in waited_for:
                        places.rank(model, now)
                    waited_for.sort(key=lambda one: self._urgency(one, call_class))
                for model in waited_for:
                    self._serve(model, call_class, changes[model.key], now, effects)
        self._replanning = False
        return effects

    def _has_news(self, model: Model, call_class: CallClass, engines: set[Engine] | None, now: float) -> bool:
        """Whether the first call that waits could go to one of these engines, where something changed; where
        it may avoid them, whether one behind it could.
        """
        queue = model.queues[call_class]
        first = model.promised if call_class == "interactive" else 0
        while first < len(queue):
            if engines is None:
                return True
            call = self._waiting[queue[first]]
            if any(self._chooser.can_take(engine, model, call, now) for engine in engines):
                return True
            if not call.avoid:
                return False
            first += 1
        return False

    def _urgency(self, model: Model, call_class: CallClass) -> tuple[bool, bool, int, Ticket]:
        head = self._waiting[model.queues[call_class][0]]
        return self._chooser.urgency(model, head, call_class)

    def _serve(
        self,
        model: Model,
        call_class: CallClass,
        engines: set[Engine] | None,
        now: float,
        effects: list[Effect],
    ) -> None:
        queue = model.queues[call_class]
        index = model.promised if call_class == "interactive" else 0
        last = index + LOOK_AHEAD
        model.drop_claims(call_class)
        while index < min(len(queue), last):
            self.places.rank(model, now)
            call = self._waiting[queue[index]]
            choice = self._chooser.best(model, call, now)
            if choice is None and call_class == "interactive" and swaps.take_back(self.places, model):
                continue
            if choice is None:
                shunned = self._chooser.shunned(model, call, now)
                swaps.seek(self.places, model, call, shunned, self._leave, now, effects)
                self._claim_rest(model, call_class, index, index + 1 if shunned else last, now)
                if not shunned:
                    return
                index, last = index + 1, last + 1  # who is behind it may go where it does not
                continue
            claim = self._worth_holding(model, call, choice, now)
            if claim is not None:
                # So many calls are served until waiting for the better place is no gain any more. In a long
                # queue one that far behind goes here; in a short one each call is weighed by itself.
                if len(queue) <= last:
                    self._chooser.claim(model, call_class, claim)
                    index += 1
                    continue
                behind = index + max(math.ceil(claim.gain_s * model.rate), 1)
                if behind >= len(queue):
                    return
                call = self._waiting[queue[behind]]
                choice = self._chooser.best(model, call, now)
                if choice is None:
                    return
            if choice.preempts is not None:
                self._emptied.add(choice.preempts.call_id)
                model.promised += 1
                self._leave(choice.preempts, effects)
                index, last = index + 1, last + 1
            else:
                self._assign(model, call, choice, now, effects)
                if not self._has_news(model, call_class, engines, now):
                    return

    def _worth_holding(self, model: Model, call: LaneCall, choice: Choice, now: float) -> Claim | None:
        """Where the call ends sooner if it is held; not any more once that took as long as going would have:
        what is predicted time and again need not come.
        """
        claim = self._chooser.later(model, call, choice, now)
        if claim is None:
            return None
        if call.held_since is None:
            call.held_since = now
        return claim if now - call.held_since < choice.finish_s else None

    def _claim_rest(self, model: Model, call_class: CallClass, index: int, last: int, now: float) -> None:
        """Calls that cannot go anywhere now count on a place, so that other models do not count on it too."""
        if not self._replanning:
            return
        queue = model.queues[call_class]
        for place in range(index, min(len(queue), last)):
            claim = self._chooser.later(model, self._waiting[queue[place]], None, now)
            if claim is None:
                return
            self._chooser.claim(model, call_class, claim)

    def _assign(
        self, model: Model, call: LaneCall, choice: Choice, now: float, effects: list[Effect]
    ) -> None:
        place = choice.place
        engine = place.engine
        if choice.evicts is not None:
            self.places.evict(choice.evicts, now)
        loads = not place.warm
        fixed = call.lane == "interactive"
        self._leave_queue(model, call, served=True)
        running = self.places.take(call.call_id, place, choice.work, fixed=fixed, now=now)
        self._running[call.call_id] = (call, running)
        evicted = None if choice.evicts is None else choice.evicts.name
        effects.append(Assignment(call.call_id, place.node, place.name, engine.name, loads, evicted))
        if fixed and not engine.sharing_is_harmless:
            for other in list(engine.running.values()):
                if not other.fixed and not other.leaving:
                    self._leave(other, effects)
        if engine.name in self._probing.get(place.node, ()):
            self.places.suspend(engine)

    def _leave(self, running: Running, effects: list[Effect]) -> None:
        """Pre-empt a call; it holds its slot until it is requeued."""
        running.leaving = True
        running.place.leaving += 1
        effects.append(Preempt(running.call_id))
        self.places.touch(running.place.engine)

    def _expire(self, now: float) -> Iterable[Expired]:
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, call_id = heapq.heappop(self._deadlines)
            call = self._waiting.get(call_id)
            if call is not None and call.deadline == deadline:
                self.withdraw(call_id)
                yield Expired(call_id)

    def _promote_aged(self, model: Model, now: float) -> None:
        queue = model.queues["background"]
        if not queue or model.aged:
            return
        call = self._waiting[queue[0]]
        if now - max(call.submitted, model.background_ended_at) < self.age_s:
            return
        assert call.ticket is not None
        queue.leave(call.ticket, served=True)
        self._background_waiting -= 1
        call.age()
        model.aged += 1
        call.ticket = model.queues["interactive"].join_first(call.call_id, next(self._arrivals))

    # -- book-keeping ---------------------------------------------------------------------------------------

    def _waits(self, model: Model, call: LaneCall) -> None:
        self._waiting[call.call_id] = call
        model.waiting += 1
        self._background_waiting += call.lane == "background"
        self._moved[model.key] = model
        assert call.ticket is not None
        if model.queues[call.lane].position(call.ticket) <= model.promised + LOOK_AHEAD:
            self.places.dirty[model.key] = None  # further back it has to wait for others anyway

    def _leave_queue(self, model: Model, call: LaneCall, *, served: bool) -> None:
        assert call.ticket is not None
        model.queues[call.lane].leave(call.ticket, served=served)
        model.waiting -= 1
        del self._waiting[call.call_id]
        self._background_waiting -= call.lane == "background"
        self._moved[model.key] = model
        if not model.waiting:
            swaps.cancel_unwanted(self.places, model)

    def _changed(self, model: Model) -> None:
        self.places.dirty[model.key] = None
        self._moved[model.key] = model

    def _give_back(
        self,
        model: Model,
        call: LaneCall,
        running: Running,
        now: float,
        sample: Sample | None,
        loads_on: bool,
    ) -> None:
        place = running.place
        if running.call_id in self._emptied:
            self._emptied.discard(running.call_id)
            model.promised -= 1
        if sample is not None:
            self.places.loaded(place, now)
            shown = Sample(
                sample.prompt_tokens,
                sample.completion_tokens,
                running.load_shown(sample.load_s),
                sample.prompt_s,
                sample.generate_s,
                cached=running.work[0] < call.prompt_tokens,
                concurrency=running.concurrency(now, sample.load_s + sample.prompt_s + sample.generate_s),
            )
            self.speeds.learn(place.node, place.engine.name, place.name, place.size, shown, now)
        self.places.give_back(running, now, loads_on=loads_on)

    # -- what others ask ------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def position(self, call_id: str) -> int | None:
        """A waiting call's place among those that wait for the same model, from 1."""
        call = self._waiting.get(call_id)
        if call is None or call.ticket is None:
            return None
        queues = self.places.of(call.model, call.engine).queues
        before = len(queues["interactive"]) if call.lane == "background" else 0
        return before + queues[call.lane].position(call.ticket)

    def moved(self) -> dict[str, int]:
        """Positions at the head of the queues that changed since this was asked last."""
        found: dict[str, int] = {}
        for model in self._moved.values():
            ahead = 0
            for call_class in CLASSES:
                queue = model.queues[call_class]
                for index in range(min(len(queue), _MOVES_TOLD - ahead)):
                    found[queue[index]] = ahead + index + 1
                ahead += len(queue)
                if ahead >= _MOVES_TOLD:
                    break
        self._moved.clear()
        return found

    def positions(self) -> dict[str, int]:
        """Every waiting call's place."""
        found: dict[str, int] = {}
        for model in self.places.models.values():
            for index, call_id in enumerate(
                itertools.chain(model.queues["interactive"], model.queues["background"]), 1
            ):
                found[call_id] = index
        return found

    def estimates(self, positions: Mapping[str, int], now: float) -> dict[str, float]:
        """Seconds until waiting calls at these positions would start. Left out is whom nothing usable serves,
        and who is next while a slot is free: it is held for a better place, for as long as that pays.
        """
        found: dict[str, float] = {}
        outlooks: dict[tuple[ModelKey, CallClass], tuple[float, float]] = {}
        for call_id, position in positions.items():
            call = self._waiting.get(call_id)
            if call is None:
                continue
            model = self.places.of(call.model, call.engine)
            key = (model.key, call.lane)
            if key not in outlooks:
                outlooks[key] = self._chooser.outlook(model, call.lane, now)
            first_s, rate = outlooks[key]
            if position > 1:
                first_s += (position - 1) / rate if rate else math.inf
            if 0.0 < first_s < math.inf:
                found[call_id] = round(first_s, 1)
        return found

    def _retry_after_s(self, model: Model, now: float) -> float:
        estimate = self._chooser.wait_s(model, max(model.waiting // 10, 1), now)
        return min(_LONGEST_RETRY_S, max(1.0, round(estimate, 1)))

    def running_on(self, node: str) -> int:
        return sum(len(engine.running) for engine in self.places.engines(node))

    def place_of(self, call_id: str) -> Place | None:
        """Where a call runs."""
        held = self._running.get(call_id)
        return None if held is None else held[1].place
