"""What a question becomes before it runs: seats, chairman, history and the contexts of their models."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from common.errors import InvalidRequestError, ModelUnavailableError
from common.master_settings import MasterSettings
from master.cluster.condition import trouble
from master.cluster.registry import Registry
from master.council.choice import Candidate, choose_agents, choose_chairman
from master.council.plan import SessionPlan, Turn, seats_of
from master.state.sessions import SessionRepository

if TYPE_CHECKING:
    from master.api.schemas import CreateSession

_FIRST_MODELS_S = 30.0
_NODE_BACK_S = 5.0  # a guess: a node that restarts is seen within seconds, a PC that sleeps is not


class Planner:
    """Turns a request into a plan, from what the cluster has now."""

    def __init__(self, settings: MasterSettings, registry: Registry, sessions: SessionRepository) -> None:
        self._settings = settings
        self._registry = registry
        self._sessions = sessions

    async def plan(self, request: CreateSession) -> SessionPlan:
        """Fix everything that a session decides from.

        Raises `ModelUnavailableError` with the names, `InvalidRequestError`, `NotFoundError` (conversation).
        """
        candidates = await self._candidates()
        chosen = request.agents
        if chosen is None:
            names = choose_agents(candidates, self._settings.default_agents)
            if not names:
                raise self._no_model()
            pairs: list[tuple[str, str | None]] = [(name, None) for name in names]
        else:
            pairs = [(one.model, one.persona or None) for one in chosen]
        seats = seats_of(pairs)
        models = [seat.model for seat in seats]
        chairman = request.chairman or choose_chairman(candidates, models, self._settings.ollama_model)
        if chairman is None:
            raise AssertionError("a council has seats, and so a chairman")
        needed = list(dict.fromkeys([*models, chairman]))
        missing = [name for name in needed if not self._registry.nodes_with(name)]
        if missing:
            raise self._unavailable(missing, candidates)
        if request.quorum is not None and request.quorum > len(seats):
            raise InvalidRequestError(f"a quorum of {request.quorum} cannot be met by {len(seats)} agents")
        conversation_id = str(request.conversation_id) if request.conversation_id else None
        history: tuple[Turn, ...] = ()
        if conversation_id is not None:
            turns = await self._sessions.history(conversation_id)
            history = tuple(Turn(question, answer) for question, answer in turns)
        everyone = [*needed, *request.chairman_fallbacks]
        return SessionPlan(
            session_id=str(uuid4()),
            conversation_id=conversation_id or str(uuid4()),
            question=request.question,
            seats=seats,
            chairman=chairman,
            chairman_fallbacks=tuple(request.chairman_fallbacks),
            quorum=request.quorum or 1,
            history=history,
            options=request.options.as_dict(),
            contexts=self._contexts(everyone),
            created_at=time.time(),
            practice=any(self._is_practice(name) for name in needed),
        )

    def _no_model(self) -> ModelUnavailableError:
        """No node at all, or what keeps each of them from answering."""
        nodes = self._registry.nodes.values()
        if not nodes:
            return ModelUnavailableError(
                "the cluster has no node yet; start one with `council up`, or add one with "
                "`council worker add`"
            )
        now, wall = time.monotonic(), time.time()
        told = "; ".join(f"{node.name}: {trouble(node, now, wall) or 'it has no model'}" for node in nodes)
        return ModelUnavailableError(
            f"no model can answer now. {told}. `council models pull NAME` fetches a model on a node that "
            "answers",
            retry_after_s=None if all(node.answers for node in nodes) else _NODE_BACK_S,
        )

    def _unavailable(self, missing: list[str], candidates: list[Candidate]) -> ModelUnavailableError:
        """Whether nobody has the models, or those who have them do not answer now: that may pass."""
        asleep = {name: self._registry.nodes_with(name, answering=False) for name in missing}
        unknown = [name for name, nodes in asleep.items() if not nodes]
        if unknown:
            have = ", ".join(sorted(one.name for one in candidates)) or "none"
            return ModelUnavailableError(
                f"no node has {', '.join(unknown)}; the cluster has: {have}. "
                "Fetch a model with `council models pull NAME`",
                model=unknown[0],
            )
        told = "; ".join(
            f"{name} is on {', '.join(node.name for node in nodes)}" for name, nodes in asleep.items()
        )
        return ModelUnavailableError(
            f"no node that answers has {', '.join(missing)}: {told}. See `council worker list`; ask again "
            "when it is back, or choose other models",
            node=asleep[missing[0]][0].name,
            model=missing[0],
            retry_after_s=_NODE_BACK_S,
        )

    async def _candidates(self) -> list[Candidate]:
        """Models of the answering nodes; right after a start it waits for the nodes' first answers."""
        await self._registry.settled(_FIRST_MODELS_S)
        found: dict[str, Candidate] = {}
        for node in self._registry.nodes.values():
            for model in node.models if node.answers and not node.draining else ():
                known = found.get(model.name)
                found[model.name] = Candidate(
                    model.name,
                    model.size,
                    model.resident or (known is not None and known.resident),
                    not model.capabilities or "completion" in model.capabilities,
                    model.practice,
                )
        return list(found.values())

    def _contexts(self, models: list[str]) -> dict[str, int]:
        """The smallest slot that each model may meet in the cluster, in tokens."""
        contexts: dict[str, int] = {}
        for name in models:
            sizes = [
                model.context_length
                for node in self._registry.nodes_with(name)
                if (model := node.model(name)) is not None
            ]
            if sizes:
                contexts[name] = min(sizes)
        return contexts

    def _is_practice(self, name: str) -> bool:
        return any(
            model.practice
            for node in self._registry.nodes_with(name)
            if (model := node.model(name)) is not None
        )
