"""Model switches: which model gives its place on an engine to another, and when: pure.

One load at a time per engine. A model is evicted only while nothing runs on it. Where it is busy without end
it is drained: it gets no new calls, its background calls are pre-empted, and once it is idle it goes. That
begins once a call for another has waited for two of its loads, and not before the model that is there has
had its turn, of three times what the switch and the one back take: calls for A, B, A, B run as A, A, B, B,
and an engine that everybody waits for does not spend its time on loads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from master.cluster import model_names
from master.cluster.lane_call import Effect, LaneCall
from master.cluster.placement import PREEMPT_S, TYPICAL_WORK, Engine, Place, Running
from master.cluster.places import Model, Places, running_s

_LOOKED_AT = 8
_PATIENCE_LOADS = 2.0
_TURN_SWITCHES = 3.0
_PATIENCE_S = (1.0, 60.0)
_RECENT_S = 120.0  # a model that was used so lately may have to come back


def idle_victim(places: Places, wanted: Place, call: LaneCall, now: float) -> Place | None:
    """The idle model that may leave for `wanted`: unwanted ones first, then the longest unused."""
    idle = [
        one
        for one in wanted.engine.resident.values()
        if not one.running and _may_leave(places, one, wanted, call, now)
    ]
    if not idle:
        return None
    kept = keeps(call)
    return min(idle, key=lambda one: (_waiting(places, one) > 0, one.model in kept, one.used_at, one.serial))


def regret_s(victim: Place, call: LaneCall, now: float) -> float:
    """What evicting it may cost later, in seconds: for the comparison of places alone."""
    wanted_again = now - victim.used_at < _RECENT_S or victim.model in keeps(call)
    return victim.speed.load_s if wanted_again else 0.0


def seek(
    places: Places,
    model: Model,
    call: LaneCall,
    shunned: Collection[str],
    preempt: Callable[[Running, list[Effect]], None],
    now: float,
    effects: list[Effect],
) -> None:
    """No place takes the call now: begin to drain one where that ends its wait sooner than waiting does, on
    no node that it shuns.
    """
    count = _LOOKED_AT + len(shunned)
    cold, full = (
        [place for place in ranked.first(count) if place.node not in shunned]
        for ranked in (model.cold, model.full)
    )
    for place in cold:
        if place.engine.drained_for is place:
            if call.lane == "interactive":
                _hurry(place.engine, preempt, effects)  # that began for a background call, perhaps
            return
    found: list[tuple[float, int, Place, Place]] = []
    for place in cold:
        engine = place.engine
        if engine.loading is not None or engine.drained is not None or engine.has_room():
            continue
        for victim in engine.resident.values():
            if victim.running and _may_leave(places, victim, place, call, now):
                drain_s = PREEMPT_S if _only_background(victim, call) else running_s(victim, now)
                finish_s = drain_s + place.load_s(now) + place.work_s(call.work, 0)
                found.append((finish_s, victim.serial, place, victim))
    if not found:
        return
    finish_s, _, place, victim = min(found, key=lambda one: one[:2])
    waiting = len(model.queues[call.lane])
    if full and model.rate:
        elsewhere_s = min(one.next_free_s(now) for one in full) + waiting / model.rate
        if elsewhere_s < finish_s:
            return
    place.engine.drained, place.engine.drained_for = victim, place
    if call.lane == "interactive":
        _hurry(place.engine, preempt, effects)
    places.touch(place.engine)


def _hurry(engine: Engine, preempt: Callable[[Running, list[Effect]], None], effects: list[Effect]) -> None:
    """Let background make room on the model that is drained."""
    if engine.drained is not None:
        for running in engine.drained.preemptible():
            preempt(running, effects)


def cancel_unwanted(places: Places, model: Model) -> None:
    """Nobody waits for the model any more: what is drained for it may go on."""
    if model.waiting:
        return
    for place in model.places.values():
        if place.engine.drained_for is place:
            place.engine.drained = place.engine.drained_for = None
            places.touch(place.engine)


def take_back(places: Places, model: Model) -> bool:
    """End the draining of the model for others that only background waits for: a person waits for this one.

    Whether that changed anything.
    """
    found = False
    for place in list(model.drained.values()):
        engine = place.engine
        wanted = engine.drained_for
        if engine.drained is place and wanted is not None:
            if places.models[engine.name, wanted.model].queues["interactive"]:
                continue
            engine.drained = engine.drained_for = None
            places.touch(engine)
            found = True
    return found


def turn_s(places: Places, wanted: Place, call: LaneCall, now: float) -> float:
    """Seconds until an idle engine is free for `wanted`, whose models are waited for by calls that go first;
    0 where nobody is in the way.
    """
    engine = wanted.engine
    if engine.has_room() or idle_victim(places, wanted, call, now) is not None:
        return 0.0
    return min(
        (
            math.ceil(_waiting(places, one) / one.slots) * one.work_s(TYPICAL_WORK, 0)
            for one in engine.resident.values()
        ),
        default=0.0,
    )


def keeps(call: LaneCall) -> frozenset[str]:
    return frozenset(map(model_names.canonical, call.keeps))


def _only_background(victim: Place, call: LaneCall) -> bool:
    return call.lane == "interactive" and victim.fixed == 0


def _waiting(places: Places, place: Place) -> int:
    return places.models[place.engine.name, place.model].waiting


def _may_leave(places: Places, victim: Place, wanted: Place, call: LaneCall, now: float) -> bool:
    """Whether the model's turn on the engine is over, as far as this call may say."""
    if wanted.engine.drained_for is wanted and wanted.engine.drained is victim:
        return True
    queues = places.models[victim.engine.name, victim.model].queues
    if call.lane == "background" and (queues["interactive"] or victim.fixed):
        return False
    waiting = len(queues["interactive"]) if call.lane == "interactive" else len(queues["background"])
    busy = victim.fixed if call.lane == "interactive" else len(victim.running)
    if not waiting and not busy:
        return True
    least, most = _PATIENCE_S
    patience_s = min(max(_PATIENCE_LOADS * wanted.speed.load_s, least), most)
    turn_s = min(_TURN_SWITCHES * (wanted.speed.load_s + victim.speed.load_s), most)
    return now - call.submitted >= patience_s and now - victim.changed_at >= turn_s
