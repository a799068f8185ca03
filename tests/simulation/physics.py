"""How simulated nodes behave: slots, one load at a time, eviction, engines whose slots share their speed.

The node's own queue is the real `worker_node.admission`. Times are seconds of the simulation's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from common.protocol import CallClass
from master.cluster.node import ENGINES
from master.cluster.placement import ModelPlace, NodeView
from master.cluster.speeds import Learned, Quantity, Sample
from worker_node.admission import Admission, Admit, Decision

CACHED_SHARE = 0.9  # of the shortest earlier prompt of the same opening that a node need not read again


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as one node runs it."""

    size: int
    load_s: float
    prompt_s_per_token: float
    generate_s_per_token: float
    slots: int = 1


@dataclass(frozen=True, slots=True)
class NodeSpec:
    name: str
    models: Mapping[str, ModelSpec]
    max_loaded: int = 1
    sharing: float = 0.0
    resident: tuple[str, ...] = ()
    cached_share: float = CACHED_SHARE

    def known(self) -> list[Learned]:
        """Its true speeds, as a master that has worked with it for long would have learned them."""
        rows = [Learned(self.name, "main", "", "sharing", self.sharing, 99)]
        for name, spec in self.models.items():
            quantities: tuple[tuple[Quantity, float], ...] = (
                ("load", spec.load_s),
                ("prompt", spec.prompt_s_per_token),
                ("generate", spec.generate_s_per_token),
            )
            rows += [Learned(self.name, "main", name, what, value, 99) for what, value in quantities]
        return rows


@dataclass(slots=True, eq=False)
class SimCall:
    """One call of the workload and what became of it.

    `guessed` is what the master takes for its prompt and answer tokens, where that is not what they are.
    """

    call_id: str
    model: str
    call_class: CallClass = "interactive"
    session_id: str | None = None
    prefix_key: str | None = None
    prompt_tokens: float = 400.0
    answer_tokens: float = 256.0
    guessed: tuple[float, float] | None = None
    keeps: frozenset[str] = frozenset()
    submitted: float = 0.0
    first_started: float | None = None
    ended: float | None = None
    runs: int = 0  # how often it ran to its end
    attempts: int = 0
    preempted: int = 0
    failed: int = 0
    avoid: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Job:
    """A call on a node."""

    number: int
    call: SimCall
    phase: Literal["queue", "load", "work"] = "queue"
    left_s: float = 0.0  # of work, alone on the engine
    began: float = 0.0
    load_s: float = 0.0
    prompt_part: float = 0.0
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Happened:
    """`started`: the model is there and the call generates; `ended`: with what it showed."""

    kind: Literal["started", "ended"]
    call_id: str
    sample: Sample | None = None


class SimNode:
    """One node with one engine. `advance` moves its clock; nothing happens between two calls of it."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.alive = True
        self.slowdown = 1.0
        self.loads = 0
        self.now = 0.0
        self._numbers = 0
        self._used: dict[str, float] = {}
        self._prefixes: dict[tuple[str, str], float] = {}
        self.reset()
        self.resident.update(dict.fromkeys(spec.resident, 0.0))

    def reset(self) -> None:
        """What a node is after a start."""
        self._admission = Admission(max_resident=self.spec.max_loaded, max_queue=1_000_000)
        self.jobs: dict[str, Job] = {}
        self._by_number: dict[int, Job] = {}
        self.resident: dict[str, float] = {}  # model → when it was used last
        self._loading: Job | None = None
        self._load_queue: list[Job] = []
        self._working: dict[str, Job] = {}
        self._prefixes.clear()

    def view(self, *, usable: bool = True) -> NodeView:
        return NodeView(
            self.spec.name,
            [
                ModelPlace(name, one.slots, name in self.resident, one.size)
                for name, one in self.spec.models.items()
            ],
            ENGINES if usable else (),
            max_loaded={"main": self.spec.max_loaded},
        )

    # -- calls ----------------------------------------------------------------------------------------------

    def submit(self, call: SimCall) -> list[Happened]:
        self._numbers += 1
        job = self._by_number[self._numbers] = self.jobs[call.call_id] = Job(self._numbers, call)
        slots = self.spec.models[call.model].slots
        return self._admitted(self._admission.arrive(job.number, call.model, call.call_class, slots))

    def cancel(self, call_id: str) -> list[Happened]:
        """The caller hung up: the slot is free at once. A load that began goes on to its end."""
        job = self.jobs.pop(call_id, None)
        return [] if job is None else self._leave(job)

    def evict(self, model: str) -> None:
        """Unload it: what it had read is gone too."""
        self.resident.pop(model, None)
        self._prefixes = {key: known for key, known in self._prefixes.items() if key[0] != model}

    def running(self, model: str) -> int:
        """Calls that hold a slot of the model."""
        return self._admission.busy(model)

    def _leave(self, job: Job) -> list[Happened]:
        del self._by_number[job.number]
        self._working.pop(job.call.call_id, None)
        if job in self._load_queue:
            self._load_queue.remove(job)
        if job.phase == "queue":
            return self._admitted(self._admission.cancel(job.number))
        return self._admitted(self._admission.release(job.number, 1.0))

    def _admitted(self, decisions: Iterable[Decision]) -> list[Happened]:
        happened: list[Happened] = []
        for one in decisions:
            if isinstance(one, Admit):
                job = self._by_number[one.call_id]
                if job.call.model in self.resident:
                    happened.append(self._work(job))
                else:
                    job.phase = "load"
                    self._load_queue.append(job)
        return happened + self._next_load()

    def _next_load(self) -> list[Happened]:
        happened: list[Happened] = []
        while self._loading is None and self._load_queue:
            job = self._load_queue.pop(0)
            if job.call.model in self.resident:
                happened.append(self._work(job))
                continue
            while len(self.resident) >= self.spec.max_loaded:
                idle = [name for name in self.resident if not self._is_worked_on(name)]
                if not idle:
                    self._load_queue.insert(0, job)
                    return happened
                self.evict(min(idle, key=lambda name: self.resident[name]))
            self.loads += 1
            job.load_s = self.spec.models[job.call.model].load_s * self.slowdown
            job.left_s = job.load_s
            self._loading = job
        return happened

    def _is_worked_on(self, model: str) -> bool:
        return any(job.call.model == model for job in self._working.values())

    def _work(self, job: Job) -> Happened:
        spec, call = self.spec.models[job.call.model], job.call
        prompt = call.prompt_tokens
        if call.prefix_key is not None:
            known = self._prefixes.get((call.model, call.prefix_key))
            if known is not None:
                prompt -= self.spec.cached_share * min(known, prompt)
                job.cached = True
            self._prefixes[call.model, call.prefix_key] = min(known or prompt, call.prompt_tokens)
        prompt_s = prompt * spec.prompt_s_per_token
        job.left_s = prompt_s + call.answer_tokens * spec.generate_s_per_token
        job.prompt_part = prompt_s / job.left_s if job.left_s else 0.0
        job.phase, job.began = "work", self.now
        self._working[call.call_id] = job
        self.resident[call.model] = self.now
        return Happened("started", call.call_id)

    # -- time -----------------------------------------------------------------------------------------------

    @property
    def _pace(self) -> float:
        """How many seconds of each call's work a second does."""
        others = max(len(self._working) - 1, 0)
        return 1.0 / ((1.0 + self.spec.sharing * others) * self.slowdown)

    def next_at(self) -> float:
        """When something happens here next, if nobody comes."""
        ends = [job.left_s / self._pace for job in self._working.values()]
        if self._loading is not None:
            ends.append(self._loading.left_s)
        return self.now + min(ends) if ends and self.alive else float("inf")

    def advance(self, now: float) -> list[Happened]:
        """Move to `now`, at most to `next_at`, and tell what happened."""
        passed, pace = now - self.now, self._pace
        self.now = now
        for job in self._working.values():
            job.left_s -= passed * pace
        happened: list[Happened] = []
        loading = self._loading  # one that begins when a call ends now has its whole time before it
        for job in [job for job in self._working.values() if job.left_s <= 1e-9]:
            del self.jobs[job.call.call_id]
            self.resident[job.call.model] = now
            happened += [Happened("ended", job.call.call_id, self._shown(job)), *self._leave(job)]
        if loading is not None:
            loading.left_s -= passed
            if loading.left_s <= 1e-9:
                self._loading = None
                self.resident[loading.call.model] = now
                if loading.call.call_id in self.jobs:
                    happened.append(self._work(loading))
                happened += self._next_load()
        return happened

    def _shown(self, job: Job) -> Sample:
        took = self.now - job.began
        return Sample(
            round(job.call.prompt_tokens),
            round(job.call.answer_tokens),
            job.load_s,
            took * job.prompt_part,
            took * (1 - job.prompt_part),
        )


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that happens to a node at a time. `sleep` is found out only after five silent seconds."""

    at: float
    node: str
    kind: Literal["die", "sleep", "return", "slow", "recover"]
    factor: float = 4.0


@dataclass(slots=True)
class Cluster:
    specs: list[NodeSpec]
    nodes: dict[str, SimNode] = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = {spec.name: SimNode(spec) for spec in self.specs}
