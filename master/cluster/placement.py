"""What a call would take at a place, and what a place is: pure.

Predicted completion = wait for a slot + load (0 where the model is resident) + uncached prompt tokens at the
learned prompt speed + expected answer tokens at the learned generation speed, both stretched by what sharing
the engine with its other calls costs, divided by the node's weight. docs/decisions/0020-placement.md
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from common.protocol import CallClass, EngineName
from master.cluster import model_names
from master.cluster.speeds import Speed

Work = tuple[float, float]
"""Uncached prompt tokens, expected answer tokens."""

TYPICAL_WORK: Work = (400.0, 300.0)
PREEMPT_S = 0.25  # what it takes to close a background call's stream down to the engine
_CERTAIN_LOAD_S = 0.5
_ALONE = 0.2  # others, on average, beside whom a call counts as alone
_LEAST_WAIT_S, _WAIT = 0.25, 0.1  # seconds, and part of the work: what an engine may need beside its work


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """One model on one node: calls that may run at once, and whether it is loaded. `size` in bytes.

    `usable` is false while the breaker of this model on this node is open.
    """

    name: str
    slots: int
    resident: bool
    size: int = 0
    engine: EngineName = "main"
    usable: bool = True


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of a node now. `usable` are the engines that take calls: none while the node drains or is
    gone, and not one that is down or whose breaker is open.

    `probing`: engines that are half-open, one call may go there. `max_loaded`: models that each engine holds
    at once.
    """

    name: str
    models: Sequence[ModelPlace]
    usable: Collection[EngineName] = ("main", "background")
    probing: Collection[EngineName] = ()
    weight: float = 1.0
    max_loaded: Mapping[str, int] = field(default_factory=dict)

    def place(self, model: str, engine: EngineName = "main") -> ModelPlace | None:
        there = {one.name: one for one in self.models if one.engine == engine}
        found = model_names.find(model, there)
        return None if found is None else there[found]


@dataclass(slots=True, eq=False)
class Running:
    """A call that holds a slot. `fixed`: it is not pre-empted (interactive, or background that has aged).

    `loads`: the model's load began with it; `joins`: it came while that was under way.
    """

    call_id: str
    place: Place
    fixed: bool
    work: Work
    since: float
    expected_end: float
    loads: bool = False
    joins: bool = False
    leaving: bool = False
    _counted_from: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        self.count_from(self.since)

    def count_from(self, now: float) -> None:
        """Let `concurrency` begin anew."""
        self._counted_from = (now, self.place.engine.call_seconds(now))

    def concurrency(self, now: float, served_s: float) -> float | None:
        """Mean number of calls on the engine, this one too, by the time that each really was there: a call
        that leaves for this one is beside it for milliseconds, and is not to be taken for harmless.

        `served_s`: how long the engine says that it worked for this call. `None`: it let the call wait for
        a good part of its time here, and nobody knows how many were beside it after that.
        """
        since, before = self._counted_from
        engine = self.place.engine
        if now <= since:
            return len(engine.running)
        mean = (engine.call_seconds(now) - before) / (now - since)
        waited_s = now - since - served_s
        return None if mean > 1.0 + _ALONE and waited_s > max(_LEAST_WAIT_S, _WAIT * served_s) else mean

    def load_shown(self, told_s: float) -> float:
        """What a load takes, as far as this call has shown it; `told_s` is what it is said to have loaded.

        Who joins a load has waited for the rest of it. Where the model was taken to be there, it had gone
        meanwhile or not: a short time is what an engine needs to look at a call.
        """
        if self.loads or (not self.joins and told_s >= _CERTAIN_LOAD_S):
            return told_s
        return 0.0

    def free_at(self, now: float) -> float:
        """When its slot is free; one that is late is taken to need a quarter more of its time so far."""
        if self.leaving:
            return min(self.expected_end, now + PREEMPT_S)
        return self.expected_end if self.expected_end > now else now + 0.25 * (now - self.since)


@dataclass(slots=True, eq=False)
class Engine:
    """One engine of one node: what it runs, what it loads, and what has to leave it."""

    node: str
    name: EngineName
    places: dict[str, Place] = field(default_factory=dict)
    resident: dict[str, Place] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    fixed: int = 0
    max_loaded: int | None = None
    usable: bool = True
    weight: float = 1.0
    sharing: float = 0.0
    sharing_is_harmless: bool = False
    sharing_of: int = -1  # the version of the speeds that both were taken from
    loading: Place | None = None
    loaded_at: float = 0.0  # when the load that runs is expected to be done
    drained: Place | None = None  # gets no new calls, so that it can give its place to `drained_for`
    drained_for: Place | None = None
    # Seconds that waiting calls count on, by model and class.
    claims: dict[tuple[str, CallClass], float] = field(default_factory=dict)
    _call_seconds: float = 0.0  # as of `_counted_at`
    _counted_at: float = 0.0

    def call_seconds(self, now: float) -> float:
        """Seconds of all calls that ever ran here, added up. To be asked before `running` changes."""
        if now > self._counted_at:
            self._call_seconds += len(self.running) * (now - self._counted_at)
            self._counted_at = now
        return self._call_seconds

    def claimed_s(self, model: str, lane: CallClass) -> tuple[float, float]:
        """Seconds that this engine was promised to calls of the model, and to those of others.

        What background counts on is no obstacle to an interactive call: it goes first.
        """
        own = others = 0.0
        for (claimant, of_lane), seconds in self.claims.items():
            if lane == "interactive" and of_lane == "background":
                continue
            if claimant == model:
                own += seconds
            else:
                others += seconds
        return own, others

    def ready_s(self, now: float) -> float:
        """Seconds until another model may be loaded, if nobody new comes."""
        if self.loading is not None:
            place = self.loading
            work_s = max((one.expected_end - now for one in place.running.values()), default=0.0)
            return max(self.loaded_at - now, work_s if not self._has_room_beside(place) else 0.0, 0.0)
        if self.has_room():
            return 0.0
        return min(
            (
                max((one.free_at(now) - now for one in place.running.values()), default=0.0)
                for place in self.resident.values()
            ),
            default=0.0,
        )

    def _has_room_beside(self, place: Place) -> bool:
        return self.max_loaded is None or len(self.resident) + (not place.resident) < self.max_loaded

    def has_room(self) -> bool:
        return self.max_loaded is None or len(self.resident) < self.max_loaded


@dataclass(slots=True, eq=False)
class Place:
    """One model on one engine of one node."""

    engine: Engine
    model: str  # its canonical name
    name: str  # its name there
    serial: int
    slots: int = 1
    size: int = 0
    usable: bool = True
    speed: Speed = field(default_factory=lambda: Speed(0.0, 0.0, 0.0))
    speed_of: int = -1  # the version of the speeds that it was taken from
    running: dict[str, Running] = field(default_factory=dict)
    fixed: int = 0
    leaving: int = 0
    used_at: float = float("-inf")
    changed_at: float = float("-inf")  # when its residency was last changed from here

    @property
    def node(self) -> str:
        return self.engine.node

    @property
    def resident(self) -> bool:
        return self.model in self.engine.resident

    @resident.setter
    def resident(self, resident: bool) -> None:
        if resident:
            self.engine.resident[self.model] = self
        else:
            self.engine.resident.pop(self.model, None)

    @property
    def warm(self) -> bool:
        return self.model in self.engine.resident or self.engine.loading is self

    @property
    def is_usable(self) -> bool:
        return self.usable and self.engine.usable

    def work_s(self, work: Work, others: int) -> float:
        """Seconds of reading and writing, beside `others` calls on the engine that slow it down."""
        alone = work[0] * self.speed.prompt_s_per_token + work[1] * self.speed.generate_s_per_token
        engine = self.engine
        return alone * (1.0 + engine.sharing * others) / engine.weight

    def load_s(self, now: float) -> float:
        """Seconds until the model is resident, if its load began now or is under way."""
        engine = self.engine
        if self.model in engine.resident:
            return 0.0
        if engine.loading is self:
            return max(engine.loaded_at - now, 0.0)
        return self.speed.load_s

    def free_slots(self, call_class: CallClass) -> int:
        """Slots that a call of this class may take now. One slot of two or more is kept from background, but
        not on the engine that is there for it.
        """
        free = self.slots - len(self.running)
        if call_class == "interactive":
            return free
        if self.engine.fixed and not self.engine.sharing_is_harmless:
            return 0
        background = len(self.running) - self.fixed
        kept = 1 if self.slots > 1 and self.engine.name != "background" else 0
        return min(free, self.slots - kept - background)

    def preemptible(self) -> list[Running]:
        """Background calls here that may be sent back to the queue, the youngest first."""
        found = [one for one in self.running.values() if not one.fixed and not one.leaving]
        return sorted(found, key=lambda one: -one.since)

    def next_free_s(self, now: float) -> float:
        """Seconds until a slot becomes free here; 0 when one is."""
        if len(self.running) < self.slots:
            return 0.0
        return max(min(one.free_at(now) for one in self.running.values()) - now, 0.0)


class Ranked:
    """Places in the order of their score, cheapest first; each at most once."""

    __slots__ = ("_order", "_scores")

    def __init__(self) -> None:
        self._order: list[tuple[float, int, Place]] = []
        self._scores: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._order)

    def put(self, place: Place, score: float | None) -> None:
        """Rank a place anew; with `None` it leaves."""
        old = self._scores.get(place.serial)
        if old == score:
            return
        if old is not None:
            del self._order[bisect_left(self._order, (old, place.serial))]  # a shorter tuple sorts first
        if score is None:
            del self._scores[place.serial]
        else:
            self._scores[place.serial] = score
            insort(self._order, (score, place.serial, place))

    def first(self, count: int) -> list[Place]:
        return [place for _, _, place in self._order[:count]] if self._order else []
