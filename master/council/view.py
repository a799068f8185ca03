"""The `CouncilSession` of the API: the one shape in which a session is shown, stored and exported."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from common.usage import SessionLatencyStats, SessionTokenUsage, StageName
from master.council import accounts
from master.council.plan import Seat
from master.council.session import Session
from master.council.states import State

CallState = Literal["waiting", "queued", "running", "done", "failed"]
ReviewState = Literal["waiting", "queued", "running", "done", "abstained", "failed"]
SessionState = Literal["queued", "opinions", "review", "synthesis", "completed", "failed", "cancelled"]
SynthesisKind = Literal["chairman", "fallback_chairman", "top_ranked"]


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True)


class AgentView(_Shown):
    """One seat. `error` is the problem of its opinion, or of its review where only that failed."""

    agent_id: str
    model: str
    persona: str | None = None
    node: str | None = None
    state: CallState
    opinion: str | None = None
    review_state: ReviewState
    error: dict[str, Any] | None = None


class RankedAnswer(_Shown):
    agent_id: str
    score: int
    reasoning: str


class BallotView(_Shown):
    """What one reviewer decided; an abstention has no rankings and a reason."""

    reviewer: str
    rankings: list[RankedAnswer]
    abstained: bool
    reason: str | None = None


class RankView(_Shown):
    """Equal ranks are ties; `borda` is 0..1; `votes` counts the ballots that judged the answer."""

    agent_id: str
    rank: int
    borda: float
    mean_score: float
    votes: int


class SynthesisView(_Shown):
    """The final answer and who wrote it; `top_ranked` is an agent's answer, word for word."""

    text: str
    model: str
    node: str | None = None
    kind: SynthesisKind


class TrimView(_Shown):
    """What a call's prompt had to leave out to fit its context."""

    stage: StageName
    agent_id: str
    what: str
    characters: int


class CouncilSession(_Shown):
    """A session of the council as it stands, running or ended."""

    id: str
    conversation_id: str
    run: int
    question: str
    state: SessionState
    result: Literal["full", "degraded", "single"] | None = None
    missing_agents: list[str]
    practice: bool
    cached: bool
    trimmed: list[TrimView]
    warnings: list[str]
    error: dict[str, Any] | None = None
    chairman: str
    agents: list[AgentView]
    ballots: list[BallotView]
    ranking: list[RankView]
    agreement: float | None = None
    contested: bool
    synthesis: SynthesisView | None = None
    top_answer: str | None = None
    token_usage: SessionTokenUsage
    latency_stats: SessionLatencyStats
    created_at: datetime
    completed_at: datetime | None = None

    @property
    def answer(self) -> str | None:
        """The text to read: the synthesis, or the one answer of a `single` session."""
        if self.synthesis is not None:
            return self.synthesis.text
        return next((one.opinion for one in self.agents if one.agent_id == self.top_answer), None)


def view(session: Session, *, cached: bool = False, completed_at: float | None = None) -> CouncilSession:
    """Show a session; `completed_at` (epoch seconds) is when its end was stored, else its last call's end."""
    plan = session.plan
    ranking = session.ranking
    # While ballots are still out, a quarrel of the first two judges is no verdict.
    judged = session.state is State.SYNTHESIS or session.is_over
    ended = completed_at if completed_at is not None else session.ended_at
    synthesis = session.synthesis
    return CouncilSession(
        id=plan.session_id,
        conversation_id=plan.conversation_id,
        run=session.run,
        question=plan.question,
        state=session.state.value,
        result=None if session.result is None else session.result.value,
        missing_agents=session.missing_agents,
        practice=plan.practice,
        cached=cached,
        trimmed=[TrimView(**trim.to_json()) for trim in session.trimmed],
        warnings=session.warnings,
        error=session.error,
        chairman=plan.chairman,
        agents=[_agent(session, seat) for seat in plan.seats],
        ballots=_ballots(session),
        ranking=[RankView(**entry) for entry in ranking.to_json()],
        agreement=ranking.agreement if judged else None,
        contested=ranking.contested and judged,
        synthesis=None
        if synthesis is None
        else SynthesisView(
            text=synthesis.text, model=synthesis.model, node=synthesis.node, kind=synthesis.kind
        ),
        top_answer=session.top_answer,
        token_usage=accounts.session_usage(session.records),
        latency_stats=accounts.session_latency(session.records),
        created_at=_moment(plan.created_at),
        completed_at=_moment(ended) if session.is_over and ended is not None else None,
    )


def _agent(session: Session, seat: Seat) -> AgentView:
    state, node = session.call_state("opinions", seat.agent_id)
    review_state, _ = session.call_state("review", seat.agent_id)
    opinion = session.opinions.get(seat.agent_id)
    ballot = session.ballots.get(seat.agent_id)
    error = session.opinion_errors.get(seat.agent_id)
    if error is None and ballot is not None:
        error = ballot.error
    return AgentView(
        agent_id=seat.agent_id,
        model=seat.model,
        persona=seat.persona,
        node=node,
        state=state,
        opinion=None if opinion is None else opinion.text,
        review_state=review_state,
        error=error,
    )


def _ballots(session: Session) -> list[BallotView]:
    return [
        BallotView(
            reviewer=ballot.reviewer,
            rankings=[
                RankedAnswer(agent_id=one.agent_id, score=one.score, reasoning=one.reasoning)
                for one in ballot.rankings
            ],
            abstained=ballot.abstained,
            reason=ballot.reason,
        )
        for seat in session.plan.seats
        if (ballot := session.ballots.get(seat.agent_id)) is not None
    ]


def _moment(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)
