"""Background calls on an engine of their own: which engine and model, and what happens while it is away.

The rule is `cluster/background_route` (pure); this looks at the nodes for it, after each heartbeat and before
each call, and tells people of every change once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol
from uuid import uuid4

from common import errors
from common.logs import get_logger
from common.protocol import EngineName, ModelInfo
from master.background.candidates import DEFAULT_BACKGROUND_MODEL
from master.background.job import BackgroundCall
from master.background.model_choice import Chosen, Offered, choose_model
from master.cluster.background_route import BackgroundRoute, Policy, Route
from master.cluster.calls import Answer, Call, CallWatcher, SilentWatcher
from master.cluster.dispatch import Dispatcher
from master.cluster.node import Node
from master.metrics import BACKGROUND_CALLS, BACKGROUND_ENGINE

EngineState = Literal["connected", "down", "none"]
_FIRST_ANSWERS_S = 10.0
_RETRY_AFTER_S = 30.0
_MAX_TRIES = 5  # a prompt that kills its engine is not tried for ever
# What a call on an engine that died may end with: worth looking at the engine again.
_MAY_BE_THE_ENGINE = (errors.RetryableError, errors.ModelUnavailableError, errors.ModelNotFoundError)
_FOUND_NO_ENGINE = (errors.NodeUnreachableError, errors.ModelUnavailableError)
_log = get_logger(__name__)


class Gate(Protocol):
    async def passed_on(self, nodes: Callable[[], Collection[str]]) -> None:
        """Wait until background work may run on one of these nodes, or on any where there are none."""

    def closed_nodes(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class _Target:
    engine: EngineName
    model: Chosen


class BackgroundCalls:
    """The one way for background work to a model. Used on the master's loop only.

    `model` is `OLLAMA_BACKGROUND_MODEL`; `gate` holds calls of jobs back while people are active.
    """

    def __init__(
        self, dispatcher: Dispatcher, *, policy: Policy, model: str | None = None, gate: Gate | None = None
    ) -> None:
        self.gate = gate
        self._dispatcher = dispatcher
        self._registry = dispatcher.registry
        self._route = BackgroundRoute(policy)
        self._wanted = model
        self._last = Route("main")
        self._since = time.time()
        self._news = asyncio.Event()
        self._held = 0  # calls that wait for the engine to come back
        self._answered: dict[EngineName, int] = {"main": 0, "background": 0}
        self._registry.listeners.append(self._look)

    async def generate(self, call: BackgroundCall) -> Answer:
        """One call of a job, in class background. It waits for the gate, and under the policy `wait` for the
        engine, as long as it takes. Raises the error of its last attempt; under `fail`,
        `EngineUnavailableError` while the background engine is down.
        """
        if self.gate is not None:
            await self.gate.passed_on(lambda: self._places(call.model or ""))
        asked = Call(
            f"background/{uuid4()}",
            call.model or "",
            call.messages,
            call.format,
            call.options,
            call.think,
            prefix_key=call.prefix_key,
            expected_tokens=call.expected_tokens,
        )
        return await self.run(asked, SilentWatcher())

    async def run(self, call: Call, watcher: CallWatcher, *, wait_s: float | None = None) -> Answer:
        """The same without the gate, for a call that a person waits for: `model` may be empty, the engine is
        chosen here. `wait_s`: how long it may wait for an engine to come back, in seconds.
        """
        await self._registry.settled(_FIRST_ANSWERS_S)
        give_up = None if wait_s is None else time.monotonic() + wait_s
        tries = 0
        while True:
            news = self._news
            route = self._look()
            target = self._target(call.model, route)
            if target is None:
                await self._wait_for(news, give_up, route)
                continue
            on = replace(
                call,
                call_class="background",
                engine=target.engine,
                model=target.model.name,
                # Machines that people use are left alone while another one has the model.
                avoid=call.avoid | (self.gate.closed_nodes() if self.gate is not None else frozenset()),
            )
            if target.engine == "background":
                on = replace(on, no_node_s=0.0)  # the policy says what comes next, not a time-out
            try:
                answer = await self._dispatcher.run(on, watcher)
            except _MAY_BE_THE_ENGINE as error:
                tries += 1
                if target.engine == "main" or tries >= _MAX_TRIES:
                    raise
                if not await self._went_away(target, call.model, error):
                    raise
                _log.info("background call goes on", node=error.node, model=on.model, code=error.code)
                continue
            self._answered[target.engine] += 1
            BACKGROUND_CALLS.labels(engine=target.engine).inc()
            return answer

    async def _went_away(self, tried: _Target, model: str, error: errors.CouncilError) -> bool:
        """Whether the engine went away under a call that failed there, though it may be back by now."""
        if isinstance(error, _FOUND_NO_ENGINE):
            return True
        await asyncio.gather(*(self._registry.refresh(node) for node in self._with_engine()))
        return self._target(model, self._look()) != tried

    async def _wait_for(self, news: asyncio.Event, give_up: float | None, route: Route) -> None:
        room = max(self._dispatcher.lanes.max_waiting // 2, 1)  # as much as background has of the queue
        if self._held >= room:
            raise errors.QueueFullError(
                f"{self._held} background calls wait for their engine already; try again later",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._held += 1
        try:
            async with asyncio.timeout(None if give_up is None else max(give_up - time.monotonic(), 0.0)):
                await news.wait()
        except TimeoutError:
            raise errors.QueueTimeoutError(
                f"{route.warning or 'the background engine is down'}; it was not back in time"
            ) from None
        finally:
            self._held -= 1

    # -- where calls go -------------------------------------------------------------------------------------

    def _target(self, model: str, route: Route) -> _Target | None:
        """The engine and the model of a call now; `None`: it has to wait.

        A model that is named and that no background engine has runs on the main engine, whatever the policy.
        """
        if model and not self._registry.nodes_with(model, answering=False, engine="background"):
            return _Target("main", Chosen(model))
        if route.target == "wait":
            return None
        if route.target == "fail":
            raise errors.EngineUnavailableError(
                f"{route.warning}; COUNCIL_BACKGROUND_POLICY says what is done then", model=model or None
            )
        if model:
            if route.target == "main" and not self._registry.nodes_with(model, answering=False):
                raise errors.ModelUnavailableError(
                    f"only a background engine has {model}, and it is down", model=model
                )
            return _Target(route.target, Chosen(model))
        chosen = self._chosen(route.target)
        if chosen is None:
            raise errors.ModelUnavailableError(
                "the cluster has no model for background work; `council models recommended --for background` "
                "lists some"
            )
        return _Target(route.target, chosen)

    def _places(self, model: str) -> list[str]:
        """The nodes where a call would run now."""
        try:
            target = self._target(model, self._look())
        except errors.CouncilError:
            return []  # the call itself tells that
        if target is None:
            return []
        return [one.name for one in self._registry.nodes_with(target.model.name, engine=target.engine)]

    def _chosen(self, engine: EngineName) -> Chosen | None:
        offered: dict[str, Offered] = {}
        now = time.monotonic()
        for node in self._registry.nodes.values():
            # Without a main engine calls wait for one; a background engine that is away offers nothing.
            if node.takes(engine, now) or engine == "main":
                for one in filter(_writes, node.models_on(engine)):
                    offered.setdefault(one.name, Offered(one.name, one.size, one.practice))
        return choose_model(list(offered.values()), self._wanted)

    def _look(self) -> Route:
        """Decide anew where calls go, and tell of a change once."""
        now = time.monotonic()
        state = self.state
        up = state == "connected" and self._chosen("background") is not None
        trouble = self._trouble(state)
        route = self._route.decide(configured=state != "none", up=up, now=now, trouble=trouble)
        for one in ("connected", "down", "none"):
            BACKGROUND_ENGINE.labels(state=one).set(one == state)
        if route != self._last:
            before, self._last, self._since = self._last, route, time.time()
            news, self._news = self._news, asyncio.Event()
            news.set()
            if route.warning is not None:
                _log.warning("background engine", state=state, target=route.target, warning=route.warning)
            elif before.warning is not None:
                _log.info("background engine", state=state, target=route.target)
        return route

    def _trouble(self, state: EngineState) -> str:
        if state == "connected":
            return "has no model that writes"
        answering = [node for node in self._with_engine() if node.answers_on("background")]
        if not answering:
            return "is down"
        return "is drained with its node" if all(node.draining for node in answering) else "fails its calls"

    def _with_engine(self) -> list[Node]:
        return [node for node in self._registry.nodes.values() if node.has_background_engine]

    # -- what people are told -------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """`none`: no node names a background engine; `down`: none of them takes calls."""
        now = time.monotonic()
        nodes = self._with_engine()
        if not nodes:
            return "none"
        return "connected" if any(node.takes("background", now) for node in nodes) else "down"

    def status(self) -> dict[str, Any]:
        """The route as the API shows it."""
        route = self._look()
        engine: EngineName = "main" if route.target == "main" else "background"
        chosen = self._chosen(engine)
        return {
            "state": self.state,
            "policy": self._route.policy,
            "target": route.target,
            "warning": route.warning,
            "since": round(self._since, 3),
            "model": {
                "name": chosen.name if chosen else None,
                "wanted": self._wanted or DEFAULT_BACKGROUND_MODEL,
                "note": chosen.note if chosen else None,
            },
            "waiting": self._held,
            "answered": dict(self._answered),
            "engines": [self._of(node) for node in self._with_engine()],
        }

    def _of(self, node: Node) -> dict[str, Any]:
        running = [
            engine
            for engine in self._dispatcher.lanes.places.engines(node.name)
            if engine.name == "background"
        ]
        return {
            "node": node.name,
            "state": "connected" if node.answers_on("background") else "down",
            "takes_calls": node.takes("background", time.monotonic()),
            "running": sum(len(engine.running) for engine in running),
            "models": _names(node.background_models),
        }


def _names(models: Iterable[ModelInfo]) -> list[str]:
    return [one.name for one in models]


def _writes(model: ModelInfo) -> bool:
    return not model.capabilities or "completion" in model.capabilities
