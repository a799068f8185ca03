"""Clusters and traffic for simulations, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from common.usage import STAGES, StageName
from master.council.calls import kept_models
from tests.simulation.physics import ModelSpec, NodeSpec, SimCall, Trouble

GB = 1_000_000_000
MODELS: dict[str, int] = {
    "qwen2.5:0.5b": GB // 2,
    "llama3.2:1b": GB,
    "llama3.2:3b": 2 * GB,
    "phi3.5": 2 * GB + GB // 5,
    "qwen2.5:7b": 5 * GB,
    "llama3.1:8b": 5 * GB,
}


def model_spec(size: int, *, speed: float = 1.0, disk: float = 1.0, slots: int = 2) -> ModelSpec:
    """A model on a PC that reads its memory at 20 GB/s times `speed`, its disk at 0.5 GB/s times `disk`."""
    token_s = size / 20e9 / speed
    return ModelSpec(size, 0.5 + size / 5e8 / disk, token_s / 8, token_s, slots)


def mixed_cluster(
    rng: random.Random, nodes: int, *, models: Sequence[str] = tuple(MODELS), warm: bool = False
) -> list[NodeSpec]:
    """Unequal PCs, from old processors to graphics cards (a factor of 32), most models on each disk."""
    specs = []
    for number in range(nodes):
        speed, disk = 2.0 ** rng.uniform(-1.0, 4.0), 2.0 ** rng.uniform(-1.5, 1.0)
        slots = rng.choice([1, 2, 2, 4])
        have = [name for name in models if rng.random() < 0.8] or [rng.choice(models)]
        max_loaded = rng.choice([1, 1, 2, 3])
        specs.append(
            NodeSpec(
                f"pc{number}",
                {name: model_spec(MODELS[name], speed=speed, disk=disk, slots=slots) for name in have},
                max_loaded,
                rng.choice([0.0, 0.2, 0.5]),
                tuple(rng.sample(have, min(max_loaded, len(have)))) if warm else (),
            )
        )
    held = {name for spec in specs for name in spec.models}
    missing = [name for name in models if name not in held]
    if missing:
        first = specs[0]
        extra = {name: model_spec(MODELS[name]) for name in missing}
        specs[0] = NodeSpec(
            first.name, {**first.models, **extra}, first.max_loaded, first.sharing, first.resident
        )
    return specs


@dataclass(slots=True)
class Council:
    """One council: opinions at once, then reviews, then the synthesis."""

    session_id: str
    agents: Sequence[str]
    chairman: str
    answer_tokens: float = 300.0
    cached: bool = True  # engines find the shared opening of the prompts again
    stages: list[list[SimCall]] = field(default_factory=list)
    _left: int = 0
    _stage: int = 0
    _numbers: count[int] = field(default_factory=count)

    def start(self) -> list[SimCall]:
        self._stage = 0
        return self._issue(self.agents, 200.0, self.answer_tokens)

    def after(self, call: SimCall) -> list[SimCall]:
        self._left -= 1
        if self._left:
            return []
        self._stage += 1
        shared = 200.0 + self.answer_tokens * len(self.agents)
        if self._stage == 1 and len(self.agents) > 1:
            return self._issue(self.agents, shared, 70.0 * len(self.agents))
        if self._stage <= 2 and len(self.agents) > 1:
            self._stage = 2
            return self._issue([self.chairman], shared * 1.2, 500.0)
        return []

    @property
    def _stage_name(self) -> StageName:
        return STAGES[self._stage]

    def _issue(self, models: Iterable[str], prompt: float, answer: float) -> list[SimCall]:
        calls = [
            SimCall(
                f"{self.session_id}/{self._stage}/{next(self._numbers)}",
                model,
                session_id=self.session_id,
                prefix_key=self.session_id if self.cached else None,
                prompt_tokens=prompt,
                answer_tokens=answer,
                keeps=kept_models(self._stage_name, self.agents, self.chairman),
            )
            for model in models
        ]
        self._left = len(calls)
        self.stages.append(calls)
        return calls


@dataclass(slots=True)
class Traffic:
    """Arrivals, and what becomes due after a call."""

    arrivals: list[tuple[float, SimCall]] = field(default_factory=list)
    councils: dict[str, Council] = field(default_factory=dict)

    def add(self, at: float, council: Council) -> None:
        self.councils[council.session_id] = council
        self.arrivals += [(at, call) for call in council.start()]

    def more(self, call: SimCall, now: float) -> list[SimCall]:
        council = self.councils.get(call.session_id or "")
        return [] if council is None else council.after(call)


def councils(
    rng: random.Random,
    number: int,
    *,
    models: Sequence[str] = tuple(MODELS),
    agents: tuple[int, int] = (2, 5),
    every_s: float = 0.0,
) -> Traffic:
    """Councils of random models; all at once, or with exponential pauses of `every_s` on average."""
    traffic, at = Traffic(), 0.0
    for index in range(number):
        seats = rng.sample(models, min(rng.randint(*agents), len(models)))
        traffic.add(at, Council(f"s{index}", seats, rng.choice(seats), rng.choice([150.0, 300.0, 450.0])))
        at += rng.expovariate(1 / every_s) if every_s else 0.0
    return traffic


def chats(
    rng: random.Random, number: int, *, models: Sequence[str], every_s: float, start: float = 0.0
) -> list[tuple[float, SimCall]]:
    found, at = [], start
    for index in range(number):
        at += rng.expovariate(1 / every_s)
        found.append(
            (at, SimCall(f"chat{index}", rng.choice(models), prompt_tokens=120.0, answer_tokens=120.0))
        )
    return found


def flood(
    rng: random.Random, number: int, *, models: Sequence[str], at: float = 0.0
) -> list[tuple[float, SimCall]]:
    """Background calls, all at once."""
    return [
        (
            at,
            SimCall(
                f"job{index}",
                rng.choice(models),
                "background",
                prompt_tokens=800.0,
                answer_tokens=rng.choice([100.0, 300.0]),
            ),
        )
        for index in range(number)
    ]


def troubles(rng: random.Random, specs: Sequence[NodeSpec], number: int, over_s: float) -> list[Trouble]:
    """Nodes that die or sleep and come back; the first node always stays, so that every call can end."""
    found: list[Trouble] = []
    for spec in rng.sample(specs[1:], min(number, len(specs) - 1)):
        at = rng.uniform(0.0, over_s)
        found.append(Trouble(at, spec.name, rng.choice(["die", "sleep"])))
        found.append(Trouble(at + rng.uniform(1.0, over_s), spec.name, "return"))
    return found
