"""The places of the whole cluster, by model and in the order of their predicted completion: pure.

An event touches the places of one engine; they are ranked anew only when their model is looked at next, so
that an event costs the same among three nodes and among a thousand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from common.protocol import CallClass, EngineName
from master.cluster import model_names
from master.cluster.fair_queue import FairQueue
from master.cluster.placement import (
    PREEMPT_S,
    TYPICAL_WORK,
    Engine,
    ModelPlace,
    NodeView,
    Place,
    Ranked,
    Running,
)
from master.cluster.speeds import Speeds

ModelKey = tuple[EngineName, str]
"""Engine name, canonical model name."""

_OWN_KNOWLEDGE_S = 3.0  # what was done from here is truer than a report that may be this old
HARMLESS_SHARING = 0.05


def _queues() -> dict[CallClass, FairQueue]:
    return {"interactive": FairQueue(), "background": FairQueue()}


def _ranked() -> dict[CallClass, Ranked]:
    return {"interactive": Ranked(), "background": Ranked()}


@dataclass(slots=True, eq=False)
class Model:
    """One model: who waits for it, and its places by what can be done with them now.

    `warm`: a slot is free (or freed by pre-emption) and the model is there or being loaded; `full`: it is
    there, every slot is taken; `cold`: it would have to be loaded; `drained`: it gets no new calls. `rate`:
    calls per second of all warm and full places together.
    """

    key: ModelKey
    queues: dict[CallClass, FairQueue] = field(default_factory=_queues)
    places: dict[int, Place] = field(default_factory=dict)
    warm: dict[CallClass, Ranked] = field(default_factory=_ranked)
    full: Ranked = field(default_factory=Ranked)
    cold: Ranked = field(default_factory=Ranked)
    drained: dict[int, Place] = field(default_factory=dict)
    stale: dict[int, Place] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    rate: float = 0.0
    waiting: int = 0  # calls, in both queues
    promised: int = 0  # slots being emptied for the first interactive calls in the queue
    aged: int = 0  # background calls that count as interactive now, waiting or running
    background_ended_at: float = float("-inf")  # the last one that ran to its end
    # Engines that its waiting calls count on.
    claimed: dict[CallClass, list[Engine]] = field(
        default_factory=lambda: {"interactive": [], "background": []}
    )

    def drop_claims(self, lane: CallClass) -> None:
        for engine in self.claimed[lane]:
            engine.claims.pop((self.key[1], lane), None)
        self.claimed[lane].clear()


class Places:
    """What is known of every node, and the index over it."""

    def __init__(self, speeds: Speeds) -> None:
        self.speeds = speeds
        self.models: dict[ModelKey, Model] = {}
        # Models to look at again: at all places (`None`), or at those of engines where something changed.
        self.dirty: dict[ModelKey, set[Engine] | None] = {}
        self._nodes: dict[str, dict[EngineName, Engine]] = {}
        self._serials = itertools.count()

    def model(self, key: ModelKey) -> Model:
        found = self.models.get(key)
        if found is None:
            found = self.models[key] = Model(key)
        return found

    def of(self, call_model: str, engine: EngineName) -> Model:
        return self.model((engine, model_names.canonical(call_model)))

    def engines(self, node: str) -> Iterator[Engine]:
        yield from self._nodes.get(node, {}).values()

    def place(self, node: str, model: Model) -> Place | None:
        engine = self._nodes.get(node, {}).get(model.key[0])
        return None if engine is None else engine.places.get(model.key[1])

    # -- what nodes tell ------------------------------------------------------------------------------------

    def know(self, view: NodeView, now: float) -> None:
        """Take in what a node is like now."""
        engines = self._nodes.setdefault(view.name, {})
        told: dict[EngineName, dict[str, ModelPlace]] = {}
        for one in view.models:
            told.setdefault(one.engine, {}).setdefault(model_names.canonical(one.name), one)
        for name in {*engines, *told}:
            engine = engines.get(name)
            if engine is None:
                engine = engines[name] = Engine(view.name, name)
            engine.usable, engine.weight = name in view.usable, view.weight
            engine.max_loaded = view.max_loaded.get(name)
            sizes = {one.name: one.size for one in told.get(name, {}).values()}
            self.speeds.know_sizes(view.name, name, sizes)
            self.speeds.forgive(view.name, name, now)
            self._know_models(engine, told.get(name, {}), now)
            self.touch(engine)

    def forget(self, node: str) -> None:
        """The node was removed. Calls that run there end on their own."""
        for engine in self._nodes.pop(node, {}).values():
            self._know_models(engine, {}, 0.0)

    def suspend(self, engine: Engine) -> None:
        """Send nothing more there until its node is known anew: its one probe is on the way."""
        engine.usable = False
        self.touch(engine)

    def _know_models(self, engine: Engine, told: dict[str, ModelPlace], now: float) -> None:
        for name in [name for name in engine.places if name not in told]:
            place = engine.places.pop(name)
            place.resident = False
            model = self.model((engine.name, name))
            del model.places[place.serial]
            self._unrank(model, place)
            if engine.loading is place:
                engine.loading = None
            self._end_drain(engine, place)
        for name, one in told.items():
            known = engine.places.get(name)
            if known is None:
                known = Place(engine, name, one.name, next(self._serials))
                engine.places[name] = known
                self.model((engine.name, name)).places[known.serial] = known
            if known.size != one.size:
                known.speed_of = -1
            if one.slots < known.slots:
                self.speeds.forget_sharing(engine.node, engine.name)
            known.name, known.slots, known.size, known.usable = one.name, one.slots, one.size, one.usable
            is_left = engine.loading is known and not known.running  # by who began the load: it goes on
            if is_left and now >= engine.loaded_at:
                engine.loading = None
            if now - known.changed_at > _OWN_KNOWLEDGE_S and (engine.loading is not known or is_left):
                known.resident = one.resident
                if one.resident:
                    engine.loading = None if is_left else engine.loading
                    self._end_drain(engine, known)

    def _end_drain(self, engine: Engine, place: Place) -> None:
        if place in (engine.drained, engine.drained_for):
            engine.drained = engine.drained_for = None

    # -- ranking --------------------------------------------------------------------------------------------

    def touch(self, engine: Engine) -> None:
        """Something on this engine changed: rank its places anew when they are looked at."""
        version = self.speeds.versions.get((engine.node, engine.name), 0)
        if engine.sharing_of != version:
            engine.sharing_of = version
            engine.sharing = self.speeds.sharing(engine.node, engine.name)
            measured = self.speeds.measured_sharing(engine.node, engine.name)
            engine.sharing_is_harmless = measured is not None and measured <= HARMLESS_SHARING
        for name, place in engine.places.items():
            model = self.models[engine.name, name]
            model.stale[place.serial] = place
            if model.waiting and (known := self.dirty.setdefault(model.key, set())) is not None:
                known.add(engine)

    def touch_waited_for(self) -> None:
        """Time has passed: look at every model again that somebody waits for."""
        for model in self.models.values():
            if model.waiting:
                self.dirty[model.key] = None
                for place in model.full.first(8) + model.cold.first(8):
                    model.stale[place.serial] = place

    def rank(self, model: Model, now: float) -> None:
        """Bring the order of the model's places up to date."""
        for place in model.stale.values():
            if place.serial in model.places:
                self._rank(model, place, now)
        model.stale.clear()

    def _rank(self, model: Model, place: Place, now: float) -> None:
        engine = place.engine
        version = self.speeds.versions.get((engine.node, engine.name), 0)
        if place.speed_of != version:
            place.speed_of = version
            place.speed = self.speeds.of(engine.node, engine.name, place.name, place.size)
        if not place.is_usable or engine.drained is place:
            self._unrank(model, place)
            if engine.drained is place:
                model.drained[place.serial] = place
            return
        model.drained.pop(place.serial, None)
        others = len(engine.running)
        score = place.load_s(now) + place.work_s(TYPICAL_WORK, others)
        if not place.warm:
            self._unrank(model, place)
            model.cold.put(place, score + self._obstacle_s(place, now))
            return
        model.cold.put(place, None)
        free = place.free_slots("interactive")
        interactive: float | None = score if free > 0 else None
        if free <= 0 and len(place.running) - place.fixed > place.leaving:
            interactive = score + PREEMPT_S
        model.warm["interactive"].put(place, interactive)
        model.warm["background"].put(place, score if place.free_slots("background") > 0 else None)
        is_full = free <= 0 and len(place.running) > 0
        model.full.put(place, now + place.next_free_s(now) + score if is_full else None)
        self._set_rate(model, place, place.slots / max(place.work_s(TYPICAL_WORK, place.slots - 1), 1e-6))

    def _unrank(self, model: Model, place: Place) -> None:
        model.drained.pop(place.serial, None)
        for ranked in (*model.warm.values(), model.full, model.cold):
            ranked.put(place, None)
        self._set_rate(model, place, 0.0)

    def _set_rate(self, model: Model, place: Place, rate: float) -> None:
        model.rate += rate - model.rates.pop(place.serial, 0.0)
        if rate:
            model.rates[place.serial] = rate

    def _obstacle_s(self, place: Place, now: float) -> float:
        """What stands in the way of loading a model there, roughly: for the order alone."""
        engine = place.engine
        if engine.loading is not None:
            return max(engine.loaded_at - now, 0.0) + place.speed.load_s
        if engine.has_room():
            return 0.0
        if any(not one.running for one in engine.resident.values()):
            return 0.1
        return min(running_s(one, now) for one in engine.resident.values())

    # -- calls come and go ----------------------------------------------------------------------------------

    def take(
        self, call_id: str, place: Place, work: tuple[float, float], *, fixed: bool, now: float
    ) -> Running:
        """Hold a slot. On a cold place the load begins with it."""
        engine = place.engine
        load_s = place.load_s(now)
        loads, joins = not place.warm, engine.loading is place
        if loads:
            engine.loading, engine.loaded_at = place, now + load_s
            place.changed_at = now
            self._end_drain(engine, place)
        end = now + load_s + place.work_s(work, len(engine.running))
        running = Running(call_id, place, fixed, work, now, end, loads, joins)
        place.running[call_id] = engine.running[call_id] = running
        place.fixed += fixed
        engine.fixed += fixed
        place.used_at = now
        self.touch(engine)
        return running

    def loaded(self, place: Place, now: float) -> None:
        """A call generates there: the model is resident."""
        if place.engine.loading is place:
            place.engine.loading = None
        if not place.resident:
            place.resident = True
            place.changed_at = now
            self.touch(place.engine)

    def give_back(self, running: Running, now: float, *, loads_on: bool = False) -> None:
        place, engine = running.place, running.place.engine
        engine.call_seconds(now)
        del place.running[running.call_id], engine.running[running.call_id]
        place.fixed -= running.fixed
        engine.fixed -= running.fixed
        place.leaving -= running.leaving
        place.used_at = now
        if engine.loading is place and not place.running and not loads_on:
            engine.loading = None
        self.touch(engine)

    def evict(self, place: Place, now: float) -> None:
        """The place is given to another model of its engine."""
        place.resident = False
        place.changed_at = now


def running_s(place: Place, now: float) -> float:
    """Seconds until nothing runs there any more."""
    return max((one.free_at(now) - now for one in place.running.values()), default=0.0)
