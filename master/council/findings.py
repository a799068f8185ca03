"""What stands in a council so far: answers, ballots, ranking, synthesis, and what follows from them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from master.council.ballots import CastBallot, Ranked
from master.council.plan import SessionPlan
from master.council.ranking import Ranking, rank
from master.council.states import State


class Result(StrEnum):
    FULL = "full"
    DEGRADED = "degraded"
    SINGLE = "single"


@dataclass(frozen=True, slots=True)
class Opinion:
    """An answer that stands. `run` is the run that it was written in; `cut` when it hit its token limit."""

    agent_id: str
    model: str
    node: str | None
    text: str
    run: int
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The final answer and, honestly, who wrote it. `agent_id` is set where an agent's answer stands in."""

    text: str
    model: str
    node: str | None
    kind: Literal["chairman", "fallback_chairman", "top_ranked"]
    run: int
    inputs: frozenset[tuple[str, int]]
    agent_id: str | None = None
    cut: bool = False


class Findings:
    """Read by everybody who shows a session; changed by `Session` alone."""

    def __init__(self, plan: SessionPlan) -> None:
        self.plan = plan
        self.state = State.QUEUED
        self.run = 1
        self.result: Result | None = None
        self.error: dict[str, Any] | None = None
        self.opinions: dict[str, Opinion] = {}
        self.opinion_errors: dict[str, dict[str, Any]] = {}
        self.ballots: dict[str, CastBallot] = {}
        self.synthesis: Synthesis | None = None
        self.chairman_errors: dict[str, dict[str, Any]] = {}  # by model, of the current run
        self._ranked: tuple[tuple[str, ...], dict[str, tuple[Ranked, ...]], Ranking] | None = None

    @property
    def is_over(self) -> bool:
        return self.state.is_over

    @property
    def agent_ids(self) -> list[str]:
        return [seat.agent_id for seat in self.plan.seats]

    @property
    def answers(self) -> dict[str, str]:
        """agent → answer, in seat order."""
        return {agent: self.opinions[agent].text for agent in self.agent_ids if agent in self.opinions}

    @property
    def missing_agents(self) -> list[str]:
        """Seats whose opinion failed."""
        return [
            seat.agent_id
            for seat in self.plan.seats
            if seat.agent_id in self.opinion_errors and seat.agent_id not in self.opinions
        ]

    @property
    def ranking(self) -> Ranking:
        """The ranking over the ballots that were accepted so far; empty without any."""
        answers = tuple(agent for agent in self.agent_ids if agent in self.opinions)
        votes = {who: ballot.rankings for who, ballot in self.ballots.items() if not ballot.abstained}
        if self._ranked is None or self._ranked[:2] != (answers, votes):
            scores = {who: {one.agent_id: one.score for one in cast} for who, cast in votes.items()}
            self._ranked = (answers, votes, rank(answers, scores))
        return self._ranked[2]

    @property
    def top_answer(self) -> str | None:
        """The agent whose answer leads, also where it is the only one; `None` without a ranking."""
        if self.result is Result.SINGLE:
            return next(iter(self.opinions))
        if self.synthesis is not None and self.synthesis.agent_id is not None:
            return self.synthesis.agent_id
        return self.ranking.leader

    def inputs_of(self, reviewer: str) -> frozenset[tuple[str, int]]:
        """What a reviewer judges: (agent, run that its opinion was written in)."""
        return frozenset(
            (one.agent_id, one.run) for one in self.opinions.values() if one.agent_id != reviewer
        )

    @property
    def synthesis_inputs(self) -> frozenset[tuple[str, int]]:
        """What the chairman reads; an earlier synthesis of the same input need not be written again."""
        opinions = {(one.agent_id, one.run) for one in self.opinions.values()}
        return frozenset(opinions | {(f"ballot of {who}", one.run) for who, one in self.ballots.items()})

    def by_rank(self) -> list[str]:
        """Every agent with an opinion, the best first; who was not ranked comes last, by number."""
        order = list(self.ranking.order)
        return order + [agent for agent in self.agent_ids if agent in self.opinions and agent not in order]

    @property
    def chain(self) -> list[str]:
        """The models that may preside, in order: chairman, fall-backs, then those of the surviving seats."""
        seats = [self.opinions[agent].model for agent in self.by_rank()]
        return list(dict.fromkeys([self.plan.chairman, *self.plan.chairman_fallbacks, *seats]))

    @property
    def presiding(self) -> str | None:
        """The model whose turn it is to write the synthesis; `None` when all have failed."""
        return next((model for model in self.chain if model not in self.chairman_errors), None)

    def judge(self) -> Result:
        """The honest word for the whole (F4)."""
        if len(self.opinions) == 1:
            return Result.SINGLE
        whole = (
            len(self.opinions) == len(self.plan.seats)
            and not any(ballot.abstained for ballot in self.ballots.values())
            and self.synthesis is not None
            and self.synthesis.kind != "top_ranked"
        )
        return Result.FULL if whole else Result.DEGRADED
