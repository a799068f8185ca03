"""One node as the master knows it: its engines, what each has, and whether a call may go there.

The engines of a node share its machine and nothing else: each has models, slots and a breaker of its own, and
one of them may serve while the other is down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from common.protocol import EngineInfo, EngineName, Health, ModelInfo
from master.cluster import model_names
from master.cluster.breaker import Breaker
from master.cluster.history import History
from master.cluster.node_client import NodeClient
from master.cluster.placement import ModelPlace, NodeView
from master.whereabouts import is_nowhere

NodeState = Literal["connecting", "healthy", "degraded", "unhealthy", "unreachable"]
ENGINES: tuple[EngineName, ...] = ("main", "background")


@dataclass(slots=True)
class Node:
    """`models` are the last ones of its main engine that it told: what councils and people may ask for.

    `background_models` are those of its background engine, kept while that engine is away.
    """

    name: str
    client: NodeClient
    state: NodeState = "connecting"
    draining: bool = False
    models: list[ModelInfo] = field(default_factory=list)
    background_models: list[ModelInfo] = field(default_factory=list)
    engines: list[EngineInfo] = field(default_factory=list)
    health: Health | None = None
    last_seen: float | None = None
    error: str | None = None
    breaker: Breaker = field(default_factory=Breaker)
    background_breaker: Breaker = field(default_factory=Breaker)
    model_breakers: dict[tuple[EngineName, str], Breaker] = field(default_factory=dict)
    wrote_at: dict[EngineName, float] = field(default_factory=dict)  # last text for us, monotonic seconds
    max_loaded: dict[str, int] = field(default_factory=dict)
    weight: float = 1.0
    reported_name: str | None = None
    history: History = field(default_factory=History)
    mac: str | None = None
    joined: bool = False  # it tells its address itself
    leaving: bool = False  # it is being removed here, and told so
    stored: bool = False  # it was added here, and the database has it
    systems_told: int = 0  # how often its machine was looked at, and when last (monotonic seconds)
    system_told_at: float = float("-inf")

    @property
    def is_nowhere(self) -> bool:
        """Whether another node has its address, and it has told no new one yet."""
        return is_nowhere(self.client.url)

    @property
    def is_surely_there(self) -> bool:
        """Whether it answers at its address, and is no other node that happens to be there."""
        proven = self.client.url.startswith("https://") or self.reported_name == self.name
        return proven and self.state not in ("connecting", "unreachable")

    @property
    def answers(self) -> bool:
        """Whether its main engine, and with it the node, serves people."""
        return self.state in ("healthy", "degraded")

    @property
    def has_background_engine(self) -> bool:
        return any(one.name == "background" for one in self.engines)

    def answers_on(self, engine: EngineName) -> bool:
        """Whether this engine serves: the other one may be down."""
        if engine == "main":
            return self.answers
        checks = self.health.checks if self.health is not None else {}
        return (
            self.state in ("healthy", "degraded", "unhealthy")
            and checks.get("background_engine") == "connected"
            and checks.get("admission", "open") == "open"
        )

    def models_on(self, engine: EngineName) -> list[ModelInfo]:
        return self.models if engine == "main" else self.background_models

    def model(self, name: str, engine: EngineName = "main") -> ModelInfo | None:
        models = self.models_on(engine)
        for one in models:
            if one.name == name:
                return one
        wanted = model_names.canonical(name)
        return next((one for one in models if model_names.canonical(one.name) == wanted), None)

    def breaker_on(self, engine: EngineName) -> Breaker:
        """The breaker of one engine: what fails on one says nothing of the other."""
        return self.breaker if engine == "main" else self.background_breaker

    def breaker_of(self, model: str, engine: EngineName = "main") -> Breaker:
        """The breaker of one model (its name here): what fails by itself says nothing of the others."""
        return self.model_breakers.setdefault((engine, model), Breaker(threshold=2))

    def takes(self, engine: EngineName, now: float) -> bool:
        """Whether a call may be sent to this engine now."""
        return not self.draining and self.answers_on(engine) and self.breaker_on(engine).allows(now)

    def view(self, now: float) -> NodeView:
        """What placement has to know of it."""
        return NodeView(
            self.name,
            tuple(self._places(now)),
            usable=frozenset(engine for engine in ENGINES if self.takes(engine, now)),
            probing=frozenset(engine for engine in ENGINES if not self.breaker_on(engine).is_closed),
            weight=self.weight,
            max_loaded=self.max_loaded,
        )

    def _places(self, now: float) -> list[ModelPlace]:
        return [
            ModelPlace(
                one.name, one.slots, one.resident, one.size, engine, self._allows(engine, one.name, now)
            )
            for engine in ENGINES
            for one in self.models_on(engine)
        ]

    def _allows(self, engine: EngineName, model: str, now: float) -> bool:
        found = self.model_breakers.get((engine, model))
        return found is None or found.allows(now)
