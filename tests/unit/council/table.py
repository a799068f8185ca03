"""A council at a table: plays the runner of a session with scripted answers, a counted clock and no I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from common.errors import BY_CODE
from common.usage import CallLatency, TokenUsage
from master.council.calls import DueCall
from master.council.plan import AttemptRecord, Outcome, SessionPlan, seats_of
from master.council.session import Session

Reply = str | dict[str, Any]  # a text, or what differs from a finished record
Script = Callable[[DueCall], Reply]


def plan_of(
    *models: str, chairman: str = "phi3.5", question: str = "What is 2 + 2?", **fields: Any
) -> SessionPlan:
    seats = seats_of([(model, None) for model in models])
    return SessionPlan("session-1", "conversation-1", question, seats, chairman, **fields)


THREE = ("llama3.2:1b", "qwen2.5:0.5b", "gemma2:2b")


def labels_of(call: DueCall) -> list[str]:
    assert call.format is not None
    labels = call.format["properties"]["rankings"]["items"]["properties"]["label"]["enum"]
    return list(labels)


def ballot(call: DueCall, scores: Sequence[int] | None = None) -> str:
    """A valid ballot; `scores` in the order in which the reviewer sees the answers."""
    labels = labels_of(call)
    given = scores or [9 - place for place in range(len(labels))]
    votes = [
        {"label": label, "reasoning": f"about {label}", "score": max(1, score)}
        for label, score in zip(labels, given, strict=True)
    ]
    return json.dumps({"rankings": votes})


def failed(code: str = "engine_failed", detail: str = "it broke") -> dict[str, Any]:
    return {"outcome": Outcome.FAILED, "text": "", "error": BY_CODE[code](detail).to_problem()}


def good(call: DueCall) -> Reply:
    """Everybody does as asked."""
    if call.stage == "review":
        return ballot(call)
    return f"{call.stage} by {call.agent_id} in run {call.run}"


def scripted(**replies: Reply | list[Reply]) -> Script:
    """`good`, but for calls named `opinions_agent_1`, `review_agent_2`, `synthesis_chairman`.

    A list answers one attempt after the other, its last entry all further ones.
    """

    def script(call: DueCall) -> Reply:
        reply = replies.get(f"{call.stage}_{call.agent_id}")
        if reply is None:
            return good(call)
        if isinstance(reply, list):
            return reply[min(call.attempt, len(reply)) - 1]
        return reply

    return script


class Table:
    """Runs a session; `calls`, `records` and `events` hold all that happened, in order."""

    def __init__(self, session: Session | SessionPlan, script: Script = good) -> None:
        self.session = session if isinstance(session, Session) else Session(session)
        self.script = script
        self.calls: list[DueCall] = []
        self.records: list[AttemptRecord] = []
        self.events: list[dict[str, Any]] = []
        self.now = 100.0

    def begin(self, call: DueCall) -> AttemptRecord:
        self.calls.append(call)
        started = AttemptRecord(
            call.run, call.stage, call.agent_id, call.attempt, call.model, "pc2", started_at=self.now
        )
        self.session.begin(started)
        return started

    def end(self, started: AttemptRecord, reply: Reply) -> list[dict[str, Any]]:
        self.now += 1.0
        fields = reply if isinstance(reply, dict) else {"text": reply}
        finished = {
            "outcome": Outcome.DONE,
            "done_reason": "stop",
            "token_usage": TokenUsage.of(10, 4),
            "latency": CallLatency(generate_ms=900.0, total_ms=1000.0),
            "ended_at": self.now,
        }
        record = replace(started, **{**finished, **fields})
        self.records.append(record)
        happened = self.session.apply(record)
        self.events += happened
        return happened

    def step(self) -> None:
        """All that is due, at once."""
        pairs = [(call, self.begin(call)) for call in self.session.due()]
        assert pairs, f"nothing is due in {self.session.state}"
        for call, started in pairs:
            self.end(started, self.script(call))

    def run(self) -> Table:
        if self.session.state == "queued":
            self.events += self.session.start()
        while not self.session.is_over:
            self.step()
        return self

    def retry(self, agent_id: str, script: Script | None = None) -> Table:
        self.script = script or self.script
        self.events += self.session.retry(agent_id)
        return self.run()

    def happened(self, *types: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] in types]

    def called(self, run: int = 1) -> list[str]:
        return [f"{call.stage} {call.agent_id}" for call in self.calls if call.run == run]
