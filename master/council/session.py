"""The council as a pure state machine: records of calls go in, due calls and events come out.

    queued → opinions → review → synthesis → completed | failed | cancelled      (table: states.py)

It holds no clock, no socket, no randomness, so feeding the committed rows of a session rebuilds it exactly:
what is due then is what is missing. Within a stage the order of the records does not matter.

One answer only (a council of one, or one survivor of several) is `single`: review and synthesis are skipped,
`synthesis` stays `None` and `top_answer` names the agent, for nothing was synthesised and no chairman spoke.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from common.errors import (
    ConflictError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    QuorumNotMetError,
)
from common.usage import STAGES, StageName
from master.council import accounts
from master.council.attempt_book import AttemptBook
from master.council.ballots import CastBallot
from master.council.budget import Trim
from master.council.calls import DueCall
from master.council.findings import Findings, Opinion, Synthesis
from master.council.notices import notices
from master.council.plan import CHAIRMAN, AttemptRecord, Outcome, SessionPlan
from master.council.standing import UNDECIDED, Standing
from master.council.states import TRANSITIONS, State

Event = dict[str, Any]
LiveState = Literal["queued", "running"]


class Session(Findings):
    """One council session. One task owns it; nothing here awaits.

    Life with a runner: `start`, then loop: `due` → `begin` each with its `running` row → `apply` each row
    that ended → send the events. A `restarted` row must be followed by `begin` of the next attempt before
    `due` is asked again, or the call is due once more.
    """

    def __init__(self, plan: SessionPlan) -> None:
        if not plan.seats:
            raise InvalidRequestError("a council needs at least one agent")
        super().__init__(plan)
        self.records: list[AttemptRecord] = []
        self._earlier: Synthesis | None = None  # what stood before this run
        self._target: str | None = None  # whom this run retries
        self._undecided: list[str] = []  # agents of the current stage whose call is open
        self._running: dict[tuple[StageName, str], AttemptRecord] = {}
        self._live: dict[tuple[StageName, str], tuple[LiveState, str | None]] = {}
        self._trims: dict[tuple[StageName, str], tuple[Trim, ...]] = {}
        self._book = AttemptBook(self)
        self._told: list[str] = []
        self._held = False  # resuming a cancelled run: nothing may end it but the cancellation
        self._story: list[str] = []

    # What the runner calls

    def start(self) -> list[Event]:
        """Open run 1. Raises `InternalError` when the session was started before."""
        self._move(State.OPINIONS, "start")
        self._undecided = [seat.agent_id for seat in self.plan.seats]
        return [{"type": "session.started"}, {"type": "stage.started", "stage": "opinions"}]

    def due(self) -> list[DueCall]:
        """The calls that are due and have no running attempt; asking changes nothing."""
        stage = self._stage
        if stage is None:
            return []
        return [
            self._book.write(stage, agent_id).call
            for agent_id in self._undecided
            if (stage, agent_id) not in self._running
        ]

    def begin(self, record: AttemptRecord) -> None:
        """An attempt runs now. Raises `InternalError` when that call is not open."""
        self._check(record)
        self._note_trims(record)
        self._running[record.stage, record.agent_id] = record
        self.note(record.stage, record.agent_id, "running" if record.node else "queued", record.node)

    def note(self, stage: StageName, agent_id: str, state: LiveState, node: str | None = None) -> None:
        """Remember for the snapshot that a running attempt waits or generates; ignored for other calls."""
        if (stage, agent_id) in self._running:
            self._live[stage, agent_id] = (state, node)

    def apply(self, record: AttemptRecord) -> list[Event]:
        """Take in an attempt that ended; the events carry neither seq, session_id nor at.

        After the end of the session (a cancelled call that reports its tokens) it counts and moves nothing.
        Raises `InternalError` for a record that no open call explains.
        """
        if record.outcome is Outcome.RUNNING:
            self.begin(record)
            return []
        self._check(record)
        self._note_trims(record)
        self._running.pop((record.stage, record.agent_id), None)
        self._live.pop((record.stage, record.agent_id), None)
        self.records.append(record)
        self._book.add(record)
        if record.run < self.run or record.outcome in UNDECIDED:
            return []
        self._story.append(f"{record.stage} {record.agent_id}#{record.attempt} {record.outcome}")
        was_over = self.state.is_over
        events = self._settle(record)
        if was_over:
            return []
        return [*events, *self._new_warnings(), *self._advance()]

    def cancel(self) -> list[Event]:
        """End the session as cancelled; one that has ended stays as it is, without an event.

        The attempts that ran are to be applied as `cancelled` with the tokens they took, before or after.
        """
        if self.state.is_over:
            return []
        self._move(State.CANCELLED, "cancel")
        self._running.clear()
        self._live.clear()
        return [{"type": "session.cancelled"}]

    def retry(self, agent_id: str) -> list[Event]:
        """Open the next run for one agent or the `chairman`.

        Called anew are: the agent's opinion (only its ballot where the opinion stands and the ballot failed),
        the ballots that were cast on other opinions than now stand, and the synthesis. An opinion, or a
        synthesis of the same input, whose retry fails stays as it was.
        Raises `ConflictError` while the session runs, `NotFoundError` for an agent that has no seat.
        """
        if not self.state.is_over:
            raise ConflictError("the session is still running; cancel it or wait for its end")
        opinions = self._opinions_to_retry(agent_id)
        self.run += 1
        self._target = agent_id
        self.result, self.error = None, None
        if self.synthesis is not None and self.synthesis.kind != "top_ranked":
            self._earlier = self.synthesis
        self.synthesis = None
        self.chairman_errors = {}
        self._undecided = []
        events: list[Event] = [{"type": "session.reopened", "run": self.run, "agent_id": agent_id}]
        if opinions:
            return [*events, *self._enter("opinions", opinions)]
        return [*events, *self._after_opinions()]

    @classmethod
    def resume(
        cls,
        plan: SessionPlan,
        records: Iterable[AttemptRecord],
        retries: Sequence[tuple[int, str]] = (),
        cancelled: bool = False,
    ) -> Session:
        """Rebuild a session from its committed rows (any order).

        A row that still says `running` was interrupted with the master. `retries` are the (run, agent) pairs
        that opened runs 2, 3, …; `cancelled` tells that the last run was cancelled. Without anything to feed
        the session is `queued` and wants `start`. It may be over already: then only its end is left to store.
        """
        session = cls(plan)
        rows = sorted(records, key=_row_order)
        if rows or retries or cancelled:
            session.start()
        for run, target in [(1, None), *retries]:
            if target is not None:
                if not session.state.is_over:
                    session.cancel()
                session.retry(target)
            if session.run != run:
                raise InternalError(f"session {plan.session_id}: run {run} follows run {session.run - 1}")
            session._held = cancelled and run == 1 + len(retries)
            for row in rows:
                if row.run == run:
                    session.apply(_as_interrupted(row))
        if session._held:
            session.cancel()
            session._held = False
        return session

    # What others read

    @property
    def trimmed(self) -> list[Trim]:
        """What was left out of prompts, stage by stage, of the latest call of each agent."""
        ordered = sorted(self._trims, key=lambda key: (STAGES.index(key[0]), self._place(key[1])))
        return [trim for key in ordered for trim in self._trims[key]]

    @property
    def warnings(self) -> list[str]:
        """What the reader should know of the result; what a retry has put right is gone."""
        return notices(self)

    @property
    def ended_at(self) -> float | None:
        """When the last call ended (epoch seconds); `None` while it runs or where there was no call."""
        if not self.is_over:
            return None
        return max((one.ended_at for one in self.records if one.ended_at is not None), default=None)

    def call_state(self, stage: StageName, agent_id: str) -> tuple[Any, str | None]:
        """(waiting | queued | running | done | abstained | failed, node) of one agent in one stage."""
        if (stage, agent_id) in self._live:
            return self._live[stage, agent_id]
        records = [one for one in self.records if (one.stage, one.agent_id) == (stage, agent_id)]
        node = records[-1].node if records else None
        if stage == self._stage and agent_id in self._undecided:
            return "waiting", None
        if stage == "opinions":
            if agent_id in self.opinions:
                return "done", self.opinions[agent_id].node
            return ("failed" if agent_id in self.opinion_errors else "waiting"), node
        ballot = self.ballots.get(agent_id)
        if ballot is None:
            return "waiting", node
        if not ballot.abstained:
            return "done", node
        return ("failed" if ballot.failed else "abstained"), node

    # How it moves

    @property
    def _stage(self) -> StageName | None:
        """The stage that runs, if one does."""
        for stage in STAGES:
            if self.state.value == stage:
                return stage
        return None

    def _place(self, agent_id: str) -> int:
        return len(self.plan.seats) if agent_id == CHAIRMAN else self.agent_ids.index(agent_id)

    def _move(self, state: State, cause: str) -> None:
        if state not in TRANSITIONS[self.state]:
            raise InternalError(f"{self._who} cannot go from {self.state} to {state} ({cause}); {self._tale}")
        self._story.append(f"{self.state} → {state} ({cause})")
        self.state = state

    @property
    def _who(self) -> str:
        return f"session {self.plan.session_id} (run {self.run})"

    @property
    def _tale(self) -> str:
        return "its story: " + ("; ".join(self._story[-40:]) or "nothing yet")

    def _check(self, record: AttemptRecord) -> None:
        """Only a call that is open may have a record, or one that a cancellation or a retry overtook."""
        name = f"{record.stage} {record.agent_id}#{record.attempt} of run {record.run}"
        known = (
            record.agent_id == CHAIRMAN if record.stage == "synthesis" else self.plan.seat(record.agent_id)
        )
        if not known or record.run > self.run or self.state is State.QUEUED:
            raise InternalError(f"{self._who} has no call {name}; {self._tale}")
        if self._book.has(record):
            raise InternalError(f"{self._who} was told of {name} twice; {self._tale}")
        if record.run < self.run or self.state.is_over:
            return
        if record.stage != self._stage or record.agent_id not in self._undecided:
            raise InternalError(f"{self._who} does not wait for {name} in {self.state}; {self._tale}")

    def _settle(self, record: AttemptRecord) -> list[Event]:
        """Read what the attempt decided about its call."""
        if record.stage == "opinions":
            return self._settle_opinion(record)
        if record.stage == "review":
            return self._settle_ballot(record)
        return self._settle_synthesis(record)

    def _settle_opinion(self, record: AttemptRecord) -> list[Event]:
        agent_id = record.agent_id
        standing = self._book.standing(record.stage, record.agent_id, record.model)
        if standing.value is not None:
            self.opinions[agent_id] = Opinion(
                agent_id, record.model, record.node, standing.value, self.run, record.done_reason == "length"
            )
            self.opinion_errors.pop(agent_id, None)
            self._decide(agent_id)
            return [_completed(record)]
        if standing.error is not None:
            self.opinion_errors[agent_id] = standing.error
            self._decide(agent_id)
        return [_failed(record, standing)]

    def _settle_ballot(self, record: AttemptRecord) -> list[Event]:
        reviewer = record.agent_id
        standing = self._book.ballot_standing(reviewer)
        inputs = self.inputs_of(reviewer)
        if standing.value is not None:
            self.ballots[reviewer] = CastBallot(reviewer, standing.value, inputs, self.run)
            self._decide(reviewer)
            return [
                _completed(record),
                {"type": "ballot.accepted", "reviewer": reviewer},
                {"type": "ranking.updated", "ranking": self.ranking.to_json()},
            ]
        events = [_failed(record, standing)]
        if standing.error is not None:
            ballot = CastBallot.abstention(reviewer, standing.error, inputs, self.run)
            self.ballots[reviewer] = ballot
            self._decide(reviewer)
            events.append({"type": "ballot.abstained", "reviewer": reviewer, "reason": ballot.reason})
        return events

    def _settle_synthesis(self, record: AttemptRecord) -> list[Event]:
        standing = self._book.standing(record.stage, record.agent_id, record.model)
        if standing.value is not None:
            self.synthesis = Synthesis(
                text=standing.value,
                model=record.model,
                node=record.node,
                kind="chairman" if record.model == self.plan.chairman else "fallback_chairman",
                run=self.run,
                inputs=self.synthesis_inputs,
                cut=record.done_reason == "length",
            )
            self._decide(CHAIRMAN)
            return [_completed(record)]
        if standing.error is not None:
            self.chairman_errors[record.model] = standing.error
            if self.presiding is None:
                self._decide(CHAIRMAN)
        return [_failed(record, standing)]

    def _decide(self, agent_id: str) -> None:
        if agent_id in self._undecided:
            self._undecided.remove(agent_id)

    def _advance(self) -> list[Event]:
        """Leave the stage once every call of it is decided."""
        stage = self._stage
        if stage is None or self._undecided:
            return []
        events = [self._stage_completed(stage)]
        if stage == "opinions":
            return [*events, *self._after_opinions()]
        if stage == "review":
            return [*events, *self._after_review()]
        self._stand_in()
        return [*events, *self._complete()]

    def _after_opinions(self) -> list[Event]:
        standing = len(self.opinions)
        if standing < max(1, self.plan.quorum):
            return self._fail(standing)
        if standing == 1:
            return self._complete()
        stale = [agent for agent in self.agent_ids if agent in self.opinions and self._is_stale(agent)]
        for agent_id in list(self.ballots):
            if agent_id in stale or agent_id not in self.opinions:
                del self.ballots[agent_id]
        if stale:
            return self._enter("review", stale)
        return self._after_review()

    def _is_stale(self, reviewer: str) -> bool:
        """Whether the reviewer has to vote (again) in this run."""
        ballot = self.ballots.get(reviewer)
        if ballot is None or ballot.inputs != self.inputs_of(reviewer):
            return True
        return ballot.abstained and reviewer == self._target

    def _after_review(self) -> list[Event]:
        earlier = self._earlier
        if earlier is not None and self._target != CHAIRMAN and earlier.inputs == self.synthesis_inputs:
            self.synthesis = earlier
            return self._complete()
        return self._enter("synthesis", [CHAIRMAN])

    def _enter(self, stage: StageName, agents: list[str]) -> list[Event]:
        self._move(State(stage), ", ".join(agents))
        self._book.turn_over()
        self._undecided = list(agents)
        return [{"type": "stage.started", "stage": stage}]

    def _stand_in(self) -> None:
        """No chairman could write: an earlier synthesis of the same input, else the top-ranked answer."""
        if self.synthesis is not None:
            return
        earlier = self._earlier
        if earlier is not None and earlier.inputs == self.synthesis_inputs:
            self.synthesis = earlier
            return
        best = self.opinions[self.by_rank()[0]]
        self.synthesis = Synthesis(
            text=best.text,
            model=best.model,
            node=best.node,
            kind="top_ranked",
            run=self.run,
            inputs=self.synthesis_inputs,
            agent_id=best.agent_id,
        )

    def _complete(self) -> list[Event]:
        if self._held:
            return []
        self.result = self.judge()
        self._move(State.COMPLETED, str(self.result))
        return [*self._new_warnings(), {"type": "session.completed", "result": str(self.result)}]

    def _fail(self, standing: int) -> list[Event]:
        if self._held:
            return []
        reasons = "; ".join(
            f"{agent}: {self.opinion_errors[agent].get('detail')}" for agent in self.missing_agents
        )
        detail = (
            f"{standing} of {len(self.plan.seats)} agents answered, {max(1, self.plan.quorum)} are needed"
        )
        self.error = QuorumNotMetError(f"{detail} ({reasons})" if reasons else detail).to_problem()
        self._move(State.FAILED, "quorum")
        return [*self._new_warnings(), {"type": "session.failed", "error": self.error}]

    def _new_warnings(self) -> list[Event]:
        fresh = [text for text in self.warnings if text not in self._told]
        self._told += fresh
        return [{"type": "warning", "text": text} for text in fresh]

    def _stage_completed(self, stage: StageName) -> Event:
        return {
            "type": "stage.completed",
            "stage": stage,
            "token_usage": asdict(accounts.stage_usage(stage, self.records)),
            "latency": asdict(accounts.stage_latency(stage, self.records)),
        }

    def _opinions_to_retry(self, agent_id: str) -> list[str]:
        if agent_id == CHAIRMAN:
            if len(self.opinions) < max(2, self.plan.quorum):
                raise ConflictError("there are too few answers for a chairman; retry an agent first")
            return []
        if self.plan.seat(agent_id) is None:
            raise NotFoundError(
                f"the session has no {agent_id}; it has {', '.join(self.agent_ids)}, {CHAIRMAN}"
            )
        ballot = self.ballots.get(agent_id)
        only_the_ballot = agent_id in self.opinions and ballot is not None and ballot.abstained
        return [] if only_the_ballot else [agent_id]

    def _note_trims(self, record: AttemptRecord) -> None:
        """What this attempt's prompt left out; a call is written the same way again at a resume."""
        key = (record.stage, record.agent_id)
        if record.stage == self._stage and record.agent_id in self._undecided and key not in self._running:
            self._trims[key] = self._book.write(*key).trims


def _completed(record: AttemptRecord) -> Event:
    return {
        "type": "call.completed",
        "stage": record.stage,
        "agent_id": record.agent_id,
        "token_usage": asdict(record.token_usage),
        "latency": asdict(accounts.attempt_latency(record)),
    }


def _failed(record: AttemptRecord, standing: Standing[Any]) -> Event:
    return {
        "type": "call.failed",
        "stage": record.stage,
        "agent_id": record.agent_id,
        "error": standing.last_error,
    }


def _as_interrupted(record: AttemptRecord) -> AttemptRecord:
    if record.outcome is not Outcome.RUNNING:
        return record
    return replace(record, outcome=Outcome.INTERRUPTED, usage_unknown=True)


def _row_order(record: AttemptRecord) -> tuple[int, int, str, int]:
    return (record.run, STAGES.index(record.stage), record.agent_id, record.attempt)
