"""The choice of a place for one call among the few best of its model: pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from common.protocol import CallClass
from master.cluster import swaps
from master.cluster.fair_queue import Ticket
from master.cluster.lane_call import LaneCall
from master.cluster.placement import PREEMPT_S, TYPICAL_WORK, Engine, Place, Running, Work
from master.cluster.places import Model, ModelKey, Places

LOOKED_AT = 5  # best places of each kind that are weighed exactly
_EQUAL = 1.02  # scores this close are equal: the prefix decides
_WORTH_WAITING = 0.9  # hold a call only where it ends in less than this part of the time
_CACHED_SHARE = 0.9  # of the shared opening that an engine finds again
_PREFIXES_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Choice:
    """A place and what has to happen first. `finish_s` from now, `work` without what is cached there."""

    place: Place
    finish_s: float
    work: Work
    preempts: Running | None = None
    evicts: Place | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A place that a waiting call counts on, and the seconds of its engine that it will take.

    `gain_s` is how much sooner the call ends there than where it could go now.
    """

    place: Place
    seconds: float
    gain_s: float


class Prefixes:
    """Which node read the shared opening of a prompt last, per model and engine, and how long it was."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, ModelKey], tuple[str, float]] = OrderedDict()

    def of(self, call: LaneCall, model: ModelKey) -> tuple[str, float] | None:
        """The node and the tokens of the call that it has read: of its prefix, else of the turn before."""
        found = self._known(call.prefix_key, model)
        if found is None and (turn := self._known(call.conversation_key, model)) is not None:
            return turn[0], min(turn[1], call.opening_tokens)
        return found

    def remember(self, call: LaneCall, model: ModelKey, node: str) -> None:
        """The shortest prompt under a prefix is the nearest to what all of them share; of a conversation it
        is the last one, since each turn is longer than the one before.
        """
        if call.prefix_key:
            known = self._known(call.prefix_key, model)
            tokens = call.prompt_tokens if known is None else min(known[1], call.prompt_tokens)
            self._keep(call.prefix_key, model, node, tokens)
        if call.conversation_key:
            self._keep(call.conversation_key, model, node, call.prompt_tokens)

    def _known(self, key: str | None, model: ModelKey) -> tuple[str, float] | None:
        return None if key is None else self._found.get((key, model))

    def _keep(self, key: str, model: ModelKey, node: str, tokens: float) -> None:
        self._found[key, model] = (node, tokens)
        self._found.move_to_end((key, model))
        if len(self._found) > _PREFIXES_KEPT:
            self._found.popitem(last=False)


@dataclass(slots=True)
class Chooser:
    places: Places
    prefixes: Prefixes

    def urgency(self, model: Model, call: LaneCall, call_class: CallClass) -> tuple[bool, bool, int, Ticket]:
        """Models that are there go first; then those whose session can let go of them, since what is loaded
        last is there for the next stage; then those with the fewest places to choose from.
        """
        is_cold = not len(model.warm[call_class])
        is_kept = model.key[1] in swaps.keeps(call)
        return (is_cold, is_kept, len(model.places), model.queues[call_class].first_ticket)

    def best(self, model: Model, call: LaneCall, now: float) -> Choice | None:
        """The place where the call would end first if it were sent there now."""
        prefix = self.prefixes.of(call, model.key)
        shunned = self.shunned(model, call, now)
        count = LOOKED_AT + len(shunned)
        warm = model.warm[call.lane].first(count)
        candidates = warm + model.cold.first(count)
        if prefix is not None:
            known = self.places.place(prefix[0], model)
            if known is not None and known.warm and known not in warm and self._takes(known, call.lane):
                candidates.append(known)
        best: Choice | None = None
        best_rank: tuple[float, bool] = (math.inf, True)
        for place in candidates:
            if shunned and place.node in shunned:
                continue
            if best is not None and place.load_s(now) >= best.finish_s:
                continue  # its load alone takes longer
            choice = self._weigh(place, call, prefix, now)
            if choice is None:
                continue
            has_prefix = prefix is not None and place.node == prefix[0]
            soonest, lacks = best_rank
            if best is None or (
                choice.finish_s * _EQUAL < soonest
                or (choice.finish_s <= soonest * _EQUAL and has_prefix and lacks)
                or (choice.finish_s < soonest and has_prefix is not lacks)
            ):
                best, best_rank = choice, (choice.finish_s, not has_prefix)
        return best

    def can_take(self, engine: Engine, model: Model, call: LaneCall, now: float) -> bool:
        """Whether the call could be sent to this engine now."""
        place = engine.places.get(model.key[1])
        if place is None or not place.is_usable or engine.drained is place:
            return False
        if call.avoid and engine.node in self.shunned(model, call, now):
            return False
        return self._weigh(place, call, None, now) is not None

    def _takes(self, place: Place, lane: CallClass) -> bool:
        return place.is_usable and place.engine.drained is not place and place.free_slots(lane) > 0

    def shunned(self, model: Model, call: LaneCall, now: float) -> Collection[str]:
        """The nodes that the call avoids now, if it can: none where no other one has the model."""
        if not call.avoid:
            return ()
        names = {name for name, until in call.avoid.items() if until > now}
        has_other = any(place.is_usable and place.node not in names for place in model.places.values())
        return names if has_other else ()

    def _weigh(
        self, place: Place, call: LaneCall, prefix: tuple[str, float] | None, now: float
    ) -> Choice | None:
        """What it would take there; `None` where it cannot be done now."""
        engine = place.engine
        interactive = call.lane == "interactive"
        prompt, answer = call.work
        if prefix is not None and place.node == prefix[0] and place.resident:
            prompt -= _CACHED_SHARE * min(prefix[1], prompt)
        work = (prompt, answer)
        alone = interactive and not engine.sharing_is_harmless  # background leaves
        others = engine.fixed if alone else len(engine.running)
        finish_s = place.load_s(now) + place.work_s(work, others)
        if place.warm:
            if place.free_slots(call.lane) > 0:
                return Choice(place, finish_s, work)
            leaving = place.preemptible() if interactive else []
            return Choice(place, finish_s + PREEMPT_S, work, preempts=leaving[0]) if leaving else None
        if engine.loading is not None or (engine.drained_for is not None and engine.drained_for is not place):
            return None
        if not interactive and engine.fixed and not engine.sharing_is_harmless:
            return None
        if engine.has_room():
            return Choice(place, finish_s, work)
        victim = swaps.idle_victim(self.places, place, call, now)
        if victim is None:
            return None
        return Choice(place, finish_s + swaps.regret_s(victim, call, now), work, evicts=victim)

    # -- waiting instead ------------------------------------------------------------------------------------

    def later(self, model: Model, call: LaneCall, choice: Choice | None, now: float) -> Claim | None:
        """Where the call would end soonest if it waited; `None` where sending it now is as good.

        A place that is full frees a slot; one whose engine is busy with another model is loaded after that.
        Either way the seconds that other waiting calls count on come first.
        """
        soonest = now_s = math.inf if choice is None else _WORTH_WAITING * choice.finish_s
        best: Claim | None = None
        work = call.work if choice is None else choice.work
        shunned = self.shunned(model, call, now)
        count = LOOKED_AT + len(shunned)
        for place in model.full.first(count) + model.cold.first(count):
            engine = place.engine
            if shunned and engine.node in shunned:
                continue
            load_s = 0.0 if place.warm else place.load_s(now)
            if load_s >= soonest or (choice is not None and engine is choice.place.engine):
                continue
            own_s, others_s = engine.claimed_s(model.key[1], call.lane)
            work_s = place.work_s(work, min(place.slots, len(engine.running) + 1) - 1)
            if place.warm:
                wait_s = place.next_free_s(now)
            else:
                wait_s = engine.ready_s(now)
                if wait_s <= 0:
                    wait_s = swaps.turn_s(self.places, place, call, now)
                if wait_s <= 0:
                    continue  # it was weighed as a place to go to now
            finish_s = wait_s + others_s + (own_s or load_s) + work_s
            if finish_s < soonest:
                soonest = finish_s
                best = Claim(place, (0.0 if own_s else load_s) + work_s / place.slots, now_s - finish_s)
        return best

    def claim(self, model: Model, lane: CallClass, claim: Claim) -> None:
        """Let others know that a waiting call counts on this engine."""
        engine, key = claim.place.engine, (model.key[1], lane)
        engine.claims[key] = engine.claims.get(key, 0.0) + claim.seconds
        if engine not in model.claimed[lane]:
            model.claimed[lane].append(engine)

    def wait_s(self, model: Model, ahead: int, now: float) -> float:
        """Seconds until a call with so many before it would start; infinite where it cannot."""
        first_s, rate = self.outlook(model, "interactive", now)
        return first_s + ahead / rate if rate else first_s

    def outlook(self, model: Model, lane: CallClass, now: float) -> tuple[float, float]:
        """Seconds until the first call that waits would start, and calls per second after that."""
        self.places.rank(model, now)
        cold = model.cold.first(LOOKED_AT)
        # A slot that is kept for people counts as free: background waits for the end of a call beside it.
        held = model.full.first(LOOKED_AT) + model.warm["interactive"].first(LOOKED_AT)
        ends = [one.free_at(now) - now for place in held for one in place.running.values()]
        if len(model.warm[lane]):
            first_s = 0.0
        elif ends:
            first_s = max(min(ends), 0.0)
        else:
            first_s = min((place.load_s(now) for place in cold), default=math.inf)
        rate = model.rate or sum(place.slots / max(place.work_s(TYPICAL_WORK, 0), 1e-6) for place in cold)
        return first_s, rate
