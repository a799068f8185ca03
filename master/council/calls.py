"""The calls that a session asks for: what to send, with which limits, to which model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.protocol import Message, ThinkLevel
from common.usage import StageName
from master.council.ballots import (
    MAX_REASONING,
    MIN_REASONING,
    BallotProblem,
    CastBallot,
    Ranked,
    ballot_schema,
    parse_ballot,
    worst_case_tokens,
)
from master.council.budget import Measure, Trim, count_bytes, estimate_tokens
from master.council.plan import CHAIRMAN, Seat, SessionPlan
from master.council.prompts import (
    Composed,
    Piece,
    compose,
    fence,
    label_answers,
    opinion_part,
    review_part,
    rotate,
    synthesis_part,
)
from master.council.ranking import Ranking
from master.council.scrub import Scrubber
from master.council.standing import Purpose, Standing, Unreadable

REVIEW_OPTIONS = {"temperature": 0.2}  # the user's sampling never reaches a review
REVIEW_SHARE = 4  # a ballot may take this part of the context even where answers are cut for it
EXPECTED_OPINION = 400  # tokens, for placement
EXPECTED_SYNTHESIS = 500
EXPECTED_VOTE = 70
THINKING_ALLOWANCE = 2048  # tokens on top of a ballot, where a repair lets the model think
_UNLIMITED = 1 << 31


@dataclass(frozen=True, slots=True)
class DueCall:
    """One model call that is due and has no running attempt.

    `expected_tokens` is a guess of the answer's length for placement, `prefix_key` names the text that this
    call shares with the other stages (the same key on the same model: the engine can re-use it), and
    `conversation_key` what it shares with the calls of earlier turns.
    """

    run: int
    stage: StageName
    agent_id: str
    attempt: int
    model: str
    messages: tuple[Message, ...]
    format: Mapping[str, Any] | None
    options: Mapping[str, Any]
    think: ThinkLevel | None
    purpose: Purpose
    expected_tokens: int
    prefix_key: str
    conversation_key: str


@dataclass(frozen=True, slots=True)
class Written:
    """A due call and what its prompt left out."""

    call: DueCall
    trims: tuple[Trim, ...]


def kept_models(stage: StageName, seats: Iterable[str], chairman: str) -> frozenset[str]:
    """Models that are better not evicted for a call of this stage, and loaded last where places are short.

    The chairman's is needed last of all, so it comes last among the reviews and first among the opinions:
    then the reviews begin with what the opinions ended with.
    """
    if stage == "opinions":
        return frozenset(seats) - {chairman}
    return frozenset({chairman}) if stage == "review" else frozenset()


class CallWriter:
    """Writes the calls of one session; the same state always gives the same call."""

    def __init__(self, plan: SessionPlan) -> None:
        self._plan = plan
        # A practice model's vocabulary merges little: count its bytes.
        self._measure: Measure = count_bytes if plan.practice else estimate_tokens
        models = [*(seat.model for seat in plan.seats), plan.chairman, *plan.chairman_fallbacks]
        self._scrubber = Scrubber(models)
        self._scrubbed: dict[str, str] = {}

    def opinion(self, run: int, seat: Seat, attempt: int, standing: Standing[str]) -> Written:
        context = self._context(seat.model, standing)
        composed = self._compose(
            "opinions",
            seat.agent_id,
            room=context - self._answer_reserve(context),
            own_part=lambda answers, critiques: opinion_part(seat.persona),
        )
        options = self._answer_options(context, composed)
        seed = options.get("seed")
        if isinstance(seed, int) and seed >= 0:
            # Twins with one seed would say the same word for word.
            options["seed"] = seed + self._twins_before(seat)
        return _written(
            run, "opinions", seat.agent_id, attempt, seat.model, composed, standing.purpose, options
        )

    def review(
        self, run: int, reviewer: str, attempt: int, standing: Standing[Any], answers: Mapping[str, str]
    ) -> Written:
        """A reviewer's ballot on the other answers (agent → text, in seat order)."""
        seat = self._plan.seat(reviewer)
        assert seat is not None
        labels = self.labels(run, reviewer, list(answers))
        pieces = [Piece(f"answer of {agent}", self._scrub(answers[agent])) for agent in labels.values()]
        word = self._fence(run, reviewer, [piece.text for piece in pieces])
        context = self._context(seat.model, standing)

        def own_part(texts: Sequence[str], critiques: Sequence[str]) -> str:
            labelled = dict(zip(labels, texts, strict=True))
            return review_part(labelled, word, seat.persona, standing.complaint)

        whole = self._compose("review", reviewer, room=_UNLIMITED, own_part=own_part, answers=pieces)
        room = max(context - whole.tokens, context // REVIEW_SHARE)
        reasoning = self._reasoning_that_fits(len(labels), room)
        limit = worst_case_tokens(len(labels), reasoning, self._bytes_per_character)
        composed = whole
        if whole.tokens + limit > context:
            composed = self._compose(
                "review", reviewer, room=context - limit, own_part=own_part, answers=pieces
            )
        think: ThinkLevel | None = False
        if standing.complaint is not None:
            # Some engines ignore `format` when thinking is switched off: the second time leave it to them.
            think = None
            limit += max(0, min(THINKING_ALLOWANCE, context - composed.tokens - limit))
        return _written(
            run,
            "review",
            reviewer,
            attempt,
            seat.model,
            composed,
            standing.purpose,
            {**REVIEW_OPTIONS, "num_predict": limit},
            format=ballot_schema(list(labels), reasoning),
            think=think,
            expected=EXPECTED_VOTE * len(labels),
        )

    def synthesis(
        self,
        run: int,
        model: str,
        attempt: int,
        standing: Standing[str],
        answers: Mapping[str, str],
        ballots: Mapping[str, CastBallot],
        ranking: Ranking,
    ) -> Written:
        """The chairman's call; the best-ranked answers stand first."""
        order = [*ranking.order, *(agent for agent in answers if agent not in ranking.order)]
        labels = label_answers(self._plan.session_id, run, CHAIRMAN, order)
        label_of = {agent: label for label, agent in labels.items()}
        pieces = [Piece(f"answer of {agent}", self._scrub(answers[agent])) for agent in order]
        critiques = [
            Piece(f"review by {reviewer}", f"{label_of[vote.agent_id]}: {self._scrub(vote.reasoning)}")
            for reviewer in answers
            if reviewer in ballots
            for vote in ballots[reviewer].rankings
        ]
        word = self._fence(run, CHAIRMAN, [piece.text for piece in [*pieces, *critiques]])
        standings = {
            label_of[
                one.agent_id
            ]: f"rank {one.rank} of {len(ranking.entries)}, mean score {one.mean_score:.1f}"
            for one in ranking.entries
        }
        context = self._context(model, standing)

        def own_part(texts: Sequence[str], said: Sequence[str]) -> str:
            return synthesis_part(dict(zip(labels, texts, strict=True)), word, standings, said)

        composed = self._compose(
            "synthesis",
            CHAIRMAN,
            room=context - self._answer_reserve(context),
            own_part=own_part,
            answers=pieces,
            critiques=critiques,
        )
        purpose: Purpose = standing.purpose
        if purpose == "first" and model != self._plan.chairman:
            purpose = "fallback"
        options = self._answer_options(context, composed)
        return _written(run, "synthesis", CHAIRMAN, attempt, model, composed, purpose, options)

    def labels(self, run: int, reviewer: str, agents: Sequence[str]) -> dict[str, str]:
        """label → agent, in the order in which this reviewer sees the answers of `agents` (in seat order)."""
        return label_answers(self._plan.session_id, run, reviewer, rotate(reviewer, agents))

    def read_ballot(self, text: str, run: int, reviewer: str, agents: Sequence[str]) -> tuple[Ranked, ...]:
        """The votes of a reply, the best first. Raises `Unreadable` with the reason where it is no ballot."""
        labels = self.labels(run, reviewer, agents)
        ballot = parse_ballot(text, list(labels))
        if isinstance(ballot, BallotProblem):
            raise Unreadable(ballot.detail)
        votes = [Ranked(labels[vote.label], vote.score, vote.reasoning) for vote in ballot.votes]
        return tuple(sorted(votes, key=lambda vote: (-vote.score, agents.index(vote.agent_id))))

    def _compose(
        self,
        stage: StageName,
        agent_id: str,
        *,
        room: int,
        own_part: Callable[[Sequence[str], Sequence[str]], str],
        answers: Sequence[Piece] = (),
        critiques: Sequence[Piece] = (),
    ) -> Composed:
        return compose(
            stage,
            agent_id,
            question=self._plan.question,
            history=self._plan.history,
            answers=answers,
            critiques=critiques,
            own_part=own_part,
            room=room,
            measure=self._measure,
        )

    def _scrub(self, text: str) -> str:
        """Every reviewer reads the same answers: scrub each once."""
        if text not in self._scrubbed:
            self._scrubbed[text] = self._scrubber(text)
        return self._scrubbed[text]

    def _context(self, model: str, standing: Standing[Any]) -> int:
        context = self._plan.context(model)
        return context // 2 if standing.smaller else context

    def _answer_reserve(self, context: int) -> int:
        """Tokens kept free for an answer: what the user allows, else a quarter; at most half the context."""
        wanted = self._plan.options.get("num_predict")
        reserve = wanted if isinstance(wanted, int) and wanted > 0 else context // 4
        return min(reserve, context // 2)

    def _answer_options(self, context: int, composed: Composed) -> dict[str, Any]:
        """The user's sampling options, the answer bounded by the room left: no model writes for ever."""
        options = dict(self._plan.options)
        wanted = options.get("num_predict")
        room = max(1, context - composed.tokens)
        options["num_predict"] = min(wanted, room) if isinstance(wanted, int) and wanted > 0 else room
        return options

    def _reasoning_that_fits(self, labels: int, room: int) -> int:
        """The longest critiques (characters) whose worst case fits `room` tokens."""
        for reasoning in range(MAX_REASONING, MIN_REASONING, -20):
            if worst_case_tokens(labels, reasoning, self._bytes_per_character) <= room:
                return reasoning
        return MIN_REASONING

    @property
    def _bytes_per_character(self) -> int:
        """Of the question's script: no vocabulary needs more tokens than bytes."""
        question = self._plan.question
        return max(1, round(count_bytes(question) / max(1, len(question))))

    def _fence(self, run: int, reader: str, texts: Sequence[str]) -> str:
        return fence(f"{self._plan.session_id}/{run}/{reader}/fence", [self._plan.question, *texts])

    def _twins_before(self, seat: Seat) -> int:
        place = self._plan.seats.index(seat)
        return sum(one.model == seat.model for one in self._plan.seats[:place])


def _written(
    run: int,
    stage: StageName,
    agent_id: str,
    attempt: int,
    model: str,
    composed: Composed,
    purpose: Purpose,
    options: Mapping[str, Any],
    *,
    format: Mapping[str, Any] | None = None,
    think: ThinkLevel | None = None,
    expected: int | None = None,
) -> Written:
    guess = expected or (EXPECTED_SYNTHESIS if stage == "synthesis" else EXPECTED_OPINION)
    call = DueCall(
        run=run,
        stage=stage,
        agent_id=agent_id,
        attempt=attempt,
        model=model,
        messages=composed.messages,
        format=format,
        options=options,
        think=think,
        purpose=purpose,
        expected_tokens=min(guess, int(options["num_predict"])),
        prefix_key=composed.prefix_key,
        conversation_key=composed.conversation_key,
    )
    return Written(call, composed.trims)
