"""A session as seen by who watches it: events go in, the state of the panels comes out. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from master.cli.failure import describe_error
from master.cli.printable import printable

CallState = Literal["waiting", "queued", "running", "done", "failed"]
CHAIRMAN = "chairman"
STAGES = ("opinions", "review", "synthesis")
ENDED_STATES = frozenset({"completed", "failed", "cancelled"})


class SequenceGapError(Exception):
    """An event is missing before this one: ask again from `after`."""

    def __init__(self, after: int, got: int) -> None:
        super().__init__(f"event {got} came after event {after}")
        self.after = after
        self.got = got


@dataclass(slots=True)
class CallView:
    """One seat in one stage. Times are those passed to `Watch.apply`, in seconds.

    `restarts` counts how often the text began anew, so that a printer knows to forget what it printed.
    """

    stage: str
    agent_id: str
    model: str = ""
    node: str | None = None
    state: CallState = "waiting"
    position: int | None = None
    wait_s: float | None = None  # what the master expects, told with the position
    text: str = ""
    thinking: str = ""
    deltas: int = 0
    restarts: int = 0
    started_at: float | None = None
    first_text_at: float | None = None
    ended_at: float | None = None
    completion_tokens: int | None = None
    measured_speed: float | None = None
    note: str | None = None

    def elapsed_s(self, now: float) -> float | None:
        """Seconds since the call started, standing still once it ended."""
        if self.started_at is None:
            return None
        return max(0.0, (self.ended_at if self.ended_at is not None else now) - self.started_at)

    def tokens_per_second(self, now: float) -> tuple[float, bool] | None:
        """The speed, and whether the engine measured it; before the end it is deltas over time."""
        if self.measured_speed is not None:
            return self.measured_speed, True
        if self.first_text_at is None or self.deltas < 2:
            return None
        took = (self.ended_at if self.ended_at is not None else now) - self.first_text_at
        return (self.deltas / took, False) if took > 0 else None

    def begin_anew(self) -> None:
        if self.deltas or self.text or self.thinking:
            self.restarts += 1
        self.text = self.thinking = ""
        self.deltas = 0
        self.first_text_at = self.ended_at = None
        self.completion_tokens = self.measured_speed = None


@dataclass(slots=True)
class Watch:
    """The whole session. `apply` takes each event once: what `seq` shows to be known is dropped."""

    session_id: str
    seq: int = 0
    state: str = "queued"
    stage: str | None = None
    result: str | None = None
    error: str | None = None
    seats: dict[str, str] = field(default_factory=dict)
    personas: dict[str, str] = field(default_factory=dict)
    calls: dict[tuple[str, str], CallView] = field(default_factory=dict)
    ballots: dict[str, str] = field(default_factory=dict)
    ranking: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    chairman: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED_STATES

    def seat(self, session: dict[str, Any]) -> None:
        """Learn the seats and their models from a `CouncilSession`."""
        for agent in session.get("agents") or []:
            self.seats[str(agent["agent_id"])] = printable(agent.get("model") or "")
            if agent.get("persona"):
                self.personas[str(agent["agent_id"])] = printable(agent["persona"])
        self.chairman = printable(session.get("chairman") or self.chairman)

    def calls_of(self, stage: str) -> list[CallView]:
        """The seats of a stage in the order of the agents; those that have not begun are waiting."""
        names = [CHAIRMAN] if stage == "synthesis" else list(self.seats)
        known = [agent for (of, agent) in self.calls if of == stage and agent not in names]
        return [self.calls.get((stage, name)) or self._new_call(stage, name) for name in names + known]

    def apply(self, event: dict[str, Any], now: float, *, accept_gap: bool = False) -> bool:
        """Take one event in. False: it was known already. Raises `SequenceGapError` when one is missing."""
        seq = int(event.get("seq") or 0)
        kind = event.get("type")
        if kind == "snapshot":
            # The one event whose number may jump or even fall: it holds everything up to that number.
            self._on_snapshot(event, now)
            self.seq = seq
            return True
        if seq <= self.seq:
            return False
        if seq > self.seq + 1 and not accept_gap:
            raise SequenceGapError(self.seq, seq)
        self.seq = seq
        handler = _HANDLERS.get(str(kind))
        if handler is not None:
            handler(self, event, now)
        return True

    def _new_call(self, stage: str, agent_id: str) -> CallView:
        model = self.chairman if agent_id == CHAIRMAN else self.seats.get(agent_id, "")
        return CallView(stage, agent_id, model=model)

    def _call(self, event: dict[str, Any]) -> CallView:
        stage, agent_id = str(event.get("stage")), str(event.get("agent_id"))
        return self.calls.setdefault((stage, agent_id), self._new_call(stage, agent_id))

    def _on_session_started(self, event: dict[str, Any], _now: float) -> None:
        if isinstance(event.get("session"), dict):
            self.seat(event["session"])

    def _on_stage_started(self, event: dict[str, Any], _now: float) -> None:
        self.state = self.stage = str(event.get("stage"))

    def _on_queued(self, event: dict[str, Any], _now: float) -> None:
        call = self._call(event)
        call.state, call.position = "queued", event.get("position")
        guess = event.get("estimate_s")
        call.wait_s = guess if isinstance(guess, int | float) else None

    def _on_started(self, event: dict[str, Any], now: float) -> None:
        call = self._call(event)
        call.begin_anew()
        call.state, call.position, call.started_at = "running", None, now
        call.node = printable(event["node"]) if event.get("node") else call.node
        call.model = printable(event["model"]) if event.get("model") else call.model

    def _on_delta(self, event: dict[str, Any], now: float) -> None:
        call = self._call(event)
        if call.state != "running":
            call.state, call.started_at = "running", call.started_at or now
        call.first_text_at = now if call.first_text_at is None else call.first_text_at
        call.deltas += 1
        if event.get("channel") == "thinking":
            call.thinking += printable(event.get("text") or "")
        else:
            call.text += printable(event.get("text") or "")

    def _on_restarted(self, event: dict[str, Any], _now: float) -> None:
        call = self._call(event)
        call.begin_anew()
        call.state = "queued"
        call.node = printable(event["to_node"]) if event.get("to_node") else call.node
        where = f" on {printable(event['from_node'])}" if event.get("from_node") else ""
        why = printable(describe_error(event.get("reason"))).replace("_", " ")
        call.note = f"began anew: {why}{where}"

    def _on_completed(self, event: dict[str, Any], now: float) -> None:
        call = self._call(event)
        call.state, call.ended_at = "done", now
        call.completion_tokens = (event.get("token_usage") or {}).get("completion_tokens")
        call.measured_speed = (event.get("latency") or {}).get("tokens_per_second") or None

    def _on_call_failed(self, event: dict[str, Any], now: float) -> None:
        call = self._call(event)
        call.state, call.ended_at = "failed", now
        call.note = printable(describe_error(event.get("error")))

    def _on_ballot(self, event: dict[str, Any], _now: float) -> None:
        reviewer = str(event.get("reviewer"))
        if event.get("type") == "ballot.accepted":
            self.ballots[reviewer] = "accepted"
        else:
            self.ballots[reviewer] = f"abstained: {printable(describe_error(event.get('reason')))}"

    def _on_ranking(self, event: dict[str, Any], _now: float) -> None:
        self.ranking = list(event.get("ranking") or [])

    def _on_warning(self, event: dict[str, Any], _now: float) -> None:
        self.warnings.append(printable(event.get("text") or ""))

    def _on_reopened(self, event: dict[str, Any], _now: float) -> None:
        self.state, self.result, self.error = "queued", None, None

    def _on_session_completed(self, event: dict[str, Any], _now: float) -> None:
        self.state, self.result = "completed", event.get("result")

    def _on_session_failed(self, event: dict[str, Any], _now: float) -> None:
        self.state, self.error = "failed", printable(describe_error(event.get("error")))

    def _on_cancelled(self, _event: dict[str, Any], _now: float) -> None:
        self.state = "cancelled"

    def _on_snapshot(self, event: dict[str, Any], now: float) -> None:
        session = event.get("session") or {}
        self.seat(session)
        self.state = str(session.get("state") or self.state)
        self.stage = self.state if self.state in STAGES else self.stage
        self.result = session.get("result")
        self.error = printable(describe_error(session["error"])) if session.get("error") else None
        self.ranking = list(session.get("ranking") or [])
        self.warnings = [printable(text) for text in session.get("warnings") or []]
        for ballot in session.get("ballots") or []:
            told = printable(describe_error(ballot.get("reason")))
            self.ballots[str(ballot["reviewer"])] = (
                f"abstained: {told}" if ballot.get("abstained") else "accepted"
            )
        for agent in session.get("agents") or []:
            self._seen("opinions", agent, agent.get("state"), agent.get("opinion"), now)
            self._seen("review", agent, agent.get("review_state"), None, now)
        synthesis = session.get("synthesis")
        if synthesis:
            chairman = {"agent_id": CHAIRMAN, "model": synthesis.get("model"), "node": synthesis.get("node")}
            self._seen("synthesis", chairman, "done", synthesis.get("text"), now)
        for stage, by_agent in (event.get("partial") or {}).items():
            for agent_id, text in (by_agent or {}).items():
                self._seen(str(stage), {"agent_id": agent_id}, "running", text, now)

    def _seen(self, stage: str, agent: dict[str, Any], state: object, text: object, now: float) -> None:
        call = self._call({"stage": stage, "agent_id": agent["agent_id"]})
        call.state = _CALL_STATES.get(str(state), call.state)
        call.model = printable(agent.get("model") or call.model)
        call.node = printable(agent["node"]) if agent.get("node") else call.node
        if agent.get("error") and call.state == "failed":
            call.note = printable(describe_error(agent["error"]))
        told = _partial_text(text)
        if told is not None:
            if not told.startswith(call.text):
                call.restarts += 1
            call.text = told
        if call.state == "running":
            call.started_at = now if call.started_at is None else call.started_at
        if call.state in ("done", "failed") and call.ended_at is None and call.started_at is not None:
            call.ended_at = now


def _partial_text(value: object) -> str | None:
    """The answer so far; a master may send it bare or by channel."""
    if isinstance(value, dict):
        value = value.get("answer", value.get("text"))
    return printable(value) if isinstance(value, str) else None


_CALL_STATES: dict[str, CallState] = {
    "waiting": "waiting",
    "queued": "queued",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "abstained": "done",
}

_HANDLERS = {
    "session.started": Watch._on_session_started,
    "stage.started": Watch._on_stage_started,
    "call.queued": Watch._on_queued,
    "call.started": Watch._on_started,
    "call.delta": Watch._on_delta,
    "call.restarted": Watch._on_restarted,
    "call.completed": Watch._on_completed,
    "call.failed": Watch._on_call_failed,
    "ballot.accepted": Watch._on_ballot,
    "ballot.abstained": Watch._on_ballot,
    "ranking.updated": Watch._on_ranking,
    "warning": Watch._on_warning,
    "session.reopened": Watch._on_reopened,
    "session.completed": Watch._on_session_completed,
    "session.failed": Watch._on_session_failed,
    "session.cancelled": Watch._on_cancelled,
}
