"""Random councils: they always end, resume from any row, and their totals are the sums of their attempts."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from common.usage import STAGES, TokenUsage
from master.council.calls import DueCall
from master.council.plan import AttemptRecord, Outcome, SessionPlan
from master.council.session import Session
from master.council.states import State
from master.council.view import CouncilSession, view
from tests.unit.council.table import Reply, Table, ballot, failed, plan_of

MODELS = ["llama3.2:1b", "qwen2.5:0.5b", "gemma2:2b"]
FATES = ["good"] * 6 + ["failed", "overflow", "empty", "prose", "restarted", "interrupted"]

plans = st.builds(
    lambda models, fallbacks, quorum: plan_of(
        *models, chairman_fallbacks=tuple(fallbacks), quorum=min(quorum, len(models))
    ),
    st.lists(st.sampled_from(MODELS), min_size=1, max_size=5),
    st.lists(st.sampled_from([*MODELS, "mistral:7b"]), max_size=2),
    st.integers(1, 3),
)


def fate(seed: int, call: DueCall) -> Reply:
    """What becomes of an attempt: random, but the same whenever the same attempt is made."""
    dice = random.Random(f"{seed}/{call.run}/{call.stage}/{call.agent_id}/{call.attempt}/{call.model}")
    kind = dice.choice(FATES)
    usage: dict[str, Any] = {"token_usage": TokenUsage.of(dice.randint(0, 99), dice.randint(0, 99))}
    if kind == "failed":
        return {**failed("stall_timeout"), **usage}
    if kind == "overflow":
        return {**failed("context_overflow"), **usage}
    if kind == "empty":
        return {"text": " ", "thinking": "hm", **usage}
    if kind in ("restarted", "interrupted") and call.attempt < 4:
        return {"text": "hal", "outcome": Outcome(kind), **usage}
    if call.stage == "review" and kind != "prose":
        count = call.format["properties"]["rankings"]["maxItems"] if call.format else 0
        return {"text": ballot(call, [dice.randint(1, 10) for _ in range(count)]), **usage}
    return {"text": f"{call.agent_id} says {dice.randint(0, 9)}", **usage}


class Shuffled(Table):
    """Ends one running call at a time, in an order that the seed draws."""

    def __init__(self, session: Session | SessionPlan, seed: int) -> None:
        super().__init__(session, lambda call: fate(seed, call))
        self._dice = random.Random(seed)
        self._open: list[tuple[DueCall, AttemptRecord]] = []

    def step(self) -> None:
        self._open += [(call, self.begin(call)) for call in self.session.due()]
        assert self._open, f"nothing runs in {self.session.state}"
        self._dice.shuffle(self._open)
        call, started = self._open.pop()
        self.end(started, self.script(call))


def shown(session: Session) -> CouncilSession:
    """A view without what depends on the clock of the run."""
    whole = view(session, completed_at=0.0)
    stats = whole.latency_stats
    return whole.model_copy(
        update={"latency_stats": replace(stats, **dict.fromkeys(_STAGE_FIELDS), total_duration_ms=0)}
    )


_STAGE_FIELDS = ("stage1_opinions", "stage2_review", "stage3_synthesis")


def play(plan: SessionPlan, seed: int, retries: list[str]) -> Shuffled:
    table = Shuffled(plan, seed)
    table.run()
    for agent_id in retries:
        if agent_id != "chairman" or len(table.session.opinions) >= max(2, plan.quorum):
            table.retry(agent_id)
    return table


def retry_targets(plan: SessionPlan) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from([*(seat.agent_id for seat in plan.seats), "chairman"]), max_size=2)


@given(plans, st.integers(0, 10**6), st.data())
def test_a_council_always_ends_with_an_answer_or_a_reason(
    plan: SessionPlan, seed: int, data: st.DataObject
) -> None:
    table = play(plan, seed, data.draw(retry_targets(plan)))
    session = table.session
    result = view(session)
    if session.state is State.FAILED:
        assert result.error is not None
        assert len(session.opinions) < max(1, plan.quorum)
        assert result.result is None
    else:
        assert session.state is State.COMPLETED
        assert result.answer is not None
        assert result.answer.strip()
        assert result.result == "single" or result.synthesis is not None
        missing = len(session.opinions) < len(plan.seats)
        assert (result.result == "full") <= (not missing)
        assert bool(result.missing_agents) == missing
    assert table.events[-1]["type"] in ("session.completed", "session.failed")
    assert len(table.happened("session.completed", "session.failed")) == session.run


@given(plans, st.integers(0, 10**6), st.data())
def test_totals_are_the_sums_of_the_attempts(plan: SessionPlan, seed: int, data: st.DataObject) -> None:
    table = play(plan, seed, data.draw(retry_targets(plan)))
    usage = view(table.session).token_usage
    assert usage.total_tokens == sum(one.token_usage.total_tokens for one in table.records)
    for stage, shown_stage in zip(
        STAGES, (usage.stage1_opinions, usage.stage2_review, usage.stage3_synthesis), strict=True
    ):
        ours = [one.token_usage for one in table.records if one.stage == stage]
        assert (shown_stage is None) == (not ours)
        if shown_stage is not None:
            assert shown_stage.total_tokens == sum(one.total_tokens for one in ours)
            assert shown_stage.total_tokens == sum(one.total_tokens for one in shown_stage.by_model.values())


@settings(max_examples=settings().max_examples // 3)  # each holds a session per row
@given(plans, st.integers(0, 10**6), st.data())
def test_a_session_resumed_after_any_row_ends_the_same_and_repeats_no_finished_call(
    plan: SessionPlan, seed: int, data: st.DataObject
) -> None:
    table = play(plan, seed, data.draw(retry_targets(plan)))
    reopened = [(event["run"], event["agent_id"]) for event in table.happened("session.reopened")]
    whole = shown(table.session)
    for cut in range(len(table.records) + 1):
        rows = data.draw(st.permutations(table.records[:cut])) if cut % 5 == 4 else table.records[:cut]
        run = max((one.run for one in rows), default=1)
        resumed = Session.resume(plan, rows, [pair for pair in reopened if pair[0] <= run])
        later = Shuffled(resumed, seed)
        later.run()
        for _, agent_id in reopened[resumed.run - 1 :]:
            later.retry(agent_id)
        assert shown(later.session) == whole
        finished = {(one.key, one.attempt) for one in rows}
        again = {((call.run, call.stage, call.agent_id), call.attempt) for call in later.calls}
        assert not finished & again
        assert len(rows) + len(later.records) == len(table.records)


@given(plans, st.integers(0, 10**6), st.integers(0, 30))
def test_a_row_that_was_running_when_the_master_was_killed_is_interrupted_and_made_again(
    plan: SessionPlan, seed: int, steps: int
) -> None:
    table = Shuffled(plan, seed)
    table.events += table.session.start()
    for _ in range(steps):
        if not table.session.is_over:
            table.step()
    running = [started for _, started in table._open]
    resumed = Session.resume(plan, [*table.records, *running])
    later = Table(resumed, lambda call: fate(seed, call)).run()
    assert later.session.is_over
    interrupted = [one for one in later.session.records if one.usage_unknown]
    assert {(one.key, one.attempt) for one in interrupted} == {(one.key, one.attempt) for one in running}


@given(plans, st.integers(0, 10**6), st.integers(0, 30))
def test_a_cancelled_session_resumes_as_cancelled(plan: SessionPlan, seed: int, steps: int) -> None:
    table = Shuffled(plan, seed)
    table.events += table.session.start()
    for _ in range(steps):
        if not table.session.is_over:
            table.step()
    table.session.cancel()
    if table.session.state is not State.CANCELLED:
        return
    for number, (_, started) in enumerate(table._open):
        # The tokens of what was stopped, and one answer that came too late to matter.
        late = (
            {"text": "late"} if number == 0 and started.stage != "review" else {"outcome": Outcome.CANCELLED}
        )
        table.end(started, late)
    resumed = Session.resume(plan, table.records, cancelled=True)
    assert resumed.state is State.CANCELLED
    assert resumed.due() == []
    assert shown(resumed) == shown(table.session)
