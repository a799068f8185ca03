"""A session is kept as it was told, by one writer, and found again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from common.errors import ConflictError, NotFoundError, QuorumNotMetError
from common.usage import TokenUsage
from master.council.plan import Outcome, SessionPlan, Turn
from master.state.records import MOST_TEXT_CHARS
from master.state.sessions import IdempotencyRaceError
from master.state.store import Store
from tests.unit.state.builders import NOON, done, plan, running, snapshot

ENDED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def kept(store: Store, **changes: Any) -> SessionPlan:
    asked = plan(**changes)
    await store.sessions.create(asked)
    return asked


async def ended(store: Store, **changes: Any) -> SessionPlan:
    asked = await kept(store, **changes)
    await store.sessions.set_state(
        asked.session_id,
        "completed",
        result="full",
        completed_at=ENDED,
        snapshot=snapshot(),
        answer="Because.",
    )
    return asked


async def test_a_session_comes_back_as_it_was_told(store: Store) -> None:
    asked = await kept(store, history=(Turn("a?", "b"),), quorum=2, chairman_fallbacks=("x",), practice=True)
    begun, landed = running("agent_2"), done("agent_1")
    failed = done("agent_1", 2, outcome=Outcome.FAILED, error=QuorumNotMetError("odd").to_problem())
    for record in (begun, landed, failed):
        await store.sessions.begin_attempt(asked.session_id, running(record.agent_id, record.attempt))
        if record is not begun:
            await store.sessions.finish_attempt(asked.session_id, record)
    await store.sessions.reserve_seq(asked.session_id, 500)

    stored = await store.sessions.load(asked.session_id)
    assert stored.plan == asked
    assert stored.records == (landed, failed, begun)
    assert (stored.state, stored.result, stored.seq_head) == ("queued", None, 500)
    assert stored.created_at == datetime.fromtimestamp(NOON, UTC)
    assert stored.completed_at is None
    assert await store.sessions.unfinished() == [asked.session_id]


async def test_attempts_come_back_in_the_order_they_landed(store: Store) -> None:
    asked = await kept(store)
    slow = done("agent_1", started_at=NOON, ended_at=NOON + 9)
    quick = done("agent_2", started_at=NOON + 1, ended_at=NOON + 2)
    second_run = done("agent_1", run=2, ended_at=NOON + 1)
    for record in (second_run, slow, quick):
        await store.sessions.finish_attempt(asked.session_id, record)
    assert (await store.sessions.load(asked.session_id)).records == (quick, slow, second_run)


async def test_an_end_is_kept_with_what_is_shown_of_it(store: Store) -> None:
    asked = await ended(store)
    stored = await store.sessions.load(asked.session_id)
    assert (stored.state, stored.result, stored.completed_at) == ("completed", "full", ENDED)
    assert stored.snapshot == snapshot()
    assert await store.sessions.unfinished() == []
    (line,), _ = await store.sessions.list()
    assert (line.total_tokens, line.total_duration_ms, line.completed_at) == (38, 65.5, ENDED)


async def test_a_cancellation_is_kept_before_its_end(store: Store) -> None:
    asked = await kept(store)
    await store.sessions.cancelling(asked.session_id)
    await store.sessions.set_state(asked.session_id, "review")
    stored = await store.sessions.load(asked.session_id)
    assert (stored.cancelled, stored.state) == (True, "review")
    assert await store.sessions.unfinished() == [asked.session_id]


async def test_running_calls_of_a_dead_master_are_interrupted_and_ended_ones_are_not_touched(
    store: Store,
) -> None:
    asked, other = await kept(store), await kept(store)
    await store.sessions.finish_attempt(asked.session_id, done("agent_1"))
    await store.sessions.begin_attempt(asked.session_id, running("agent_2"))
    await store.sessions.begin_attempt(other.session_id, running("agent_2"))
    await store.sessions.interrupt_running(asked.session_id, NOON + 99)
    landed, cut = (await store.sessions.load(asked.session_id)).records
    assert landed == done("agent_1")
    assert cut == replace(
        running("agent_2"), outcome=Outcome.INTERRUPTED, usage_unknown=True, ended_at=NOON + 99
    )
    (untouched,) = (await store.sessions.load(other.session_id)).records
    assert untouched.outcome is Outcome.RUNNING


async def test_a_finished_call_is_never_written_over_by_one_that_begins(store: Store) -> None:
    asked = await kept(store)
    await store.sessions.begin_attempt(asked.session_id, running())
    await store.sessions.begin_attempt(asked.session_id, running(node="pc3"))  # still running: another place
    await store.sessions.finish_attempt(asked.session_id, done())
    with pytest.raises(ConflictError, match="ended already"):
        await store.sessions.begin_attempt(asked.session_id, running())
    assert (await store.sessions.load(asked.session_id)).records == (done(),)


async def test_seats_that_land_at_the_same_moment_are_all_kept(store: Store) -> None:
    asked = await kept(store)
    records = [done(f"agent_{seat}", number) for seat in range(1, 17) for number in (1, 2, 3)]
    await asyncio.gather(*(store.sessions.finish_attempt(asked.session_id, one) for one in records))
    assert set((await store.sessions.load(asked.session_id)).records) == set(records)


async def test_of_concurrent_questions_in_one_conversation_exactly_one_is_asked(store: Store) -> None:
    first = await ended(store)
    asked = [plan(conversation_id=first.conversation_id) for _ in range(8)]
    outcomes = await asyncio.gather(*(store.sessions.create(one) for one in asked), return_exceptions=True)
    assert [type(one) for one in outcomes if one is not None] == [ConflictError] * 7
    (winner,) = [one.session_id for one, outcome in zip(asked, outcomes, strict=True) if outcome is None]
    assert await store.sessions.unfinished() == [winner]


async def test_of_concurrent_requests_with_one_key_exactly_one_opens_a_session(store: Store) -> None:
    asked = [plan() for _ in range(8)]
    outcomes = await asyncio.gather(
        *(store.sessions.create(one, idempotency_key="k", body_hash="h") for one in asked),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes if one is not None] == [IdempotencyRaceError] * 7
    (winner,) = [one.session_id for one, outcome in zip(asked, outcomes, strict=True) if outcome is None]
    assert await store.sessions.by_idempotency_key("k") == (winner, "h")
    assert await store.sessions.by_idempotency_key("other") is None
    conversations, _ = await store.sessions.conversations()
    assert len(conversations) == 1  # the losers left none behind


async def test_a_retry_opens_the_session_and_its_run_together(store: Store) -> None:
    asked = await ended(store)
    await store.sessions.reopen(asked.session_id, 2, "agent_2")
    stored = await store.sessions.load(asked.session_id)
    assert stored.retries == ((2, "agent_2"),)
    assert (stored.state, stored.result, stored.snapshot, stored.completed_at) == (
        "opinions",
        None,
        None,
        None,
    )
    with pytest.raises(ConflictError, match="still runs"):
        await store.sessions.reopen(asked.session_id, 3, "agent_1")
    await store.sessions.set_state(asked.session_id, "completed", result="full", snapshot=snapshot())
    await store.sessions.reopen(asked.session_id, 3, "chairman")
    assert (await store.sessions.load(asked.session_id)).retries == ((2, "agent_2"), (3, "chairman"))


async def test_a_retry_beside_a_running_session_of_its_conversation_leaves_no_trace(store: Store) -> None:
    asked = await ended(store)
    await kept(store, conversation_id=asked.conversation_id)
    with pytest.raises(ConflictError, match="another session"):
        await store.sessions.reopen(asked.session_id, 2, "agent_1")
    stored = await store.sessions.load(asked.session_id)
    assert (stored.state, stored.retries) == ("completed", ())


async def test_the_cache_gives_only_whole_councils_that_were_really_asked(store: Store) -> None:
    async def asked(state: str, result: str | None, *, cached: bool = False) -> str:
        one = plan()
        await store.sessions.create(one, cache_key="same")
        if state != "queued":
            await store.sessions.set_state(
                one.session_id, state, result=result, snapshot=snapshot(), cached=cached
            )
        return one.session_id

    await asked("queued", None)
    await asked("failed", None)
    await asked("completed", "degraded")
    await asked("completed", "full", cached=True)
    assert await store.sessions.cached_result("same") is None
    whole = await asked("completed", "full")
    found = await store.sessions.cached_result("same")
    assert found is not None
    assert found.plan.session_id == whole
    assert await store.sessions.cached_result("other") is None


async def test_deleting_takes_the_rows_of_a_session_along_and_an_empty_conversation(store: Store) -> None:
    asked = await ended(store)
    await store.sessions.finish_attempt(asked.session_id, done())
    await store.sessions.reopen(asked.session_id, 2, "agent_1")
    await store.sessions.set_state(asked.session_id, "completed", result="full")
    later = await kept(store, conversation_id=asked.conversation_id, created_at=NOON + 1)
    await store.sessions.delete(asked.session_id)
    with pytest.raises(NotFoundError):
        await store.sessions.load(asked.session_id)
    shown = await store.sessions.conversation(asked.conversation_id)
    assert [one.id for one in shown.sessions] == [later.session_id]

    # The same id again finds nothing left of the first.
    await store.sessions.create(replace(asked, conversation_id=plan().conversation_id))
    again = await store.sessions.load(asked.session_id)
    assert (again.records, again.retries) == ((), ())

    await store.sessions.delete(later.session_id)
    with pytest.raises(NotFoundError):
        await store.sessions.conversation(asked.conversation_id)


async def test_deleting_a_conversation_takes_its_sessions_along(store: Store) -> None:
    asked, other = await ended(store), await ended(store)
    await store.sessions.delete_conversation(asked.conversation_id)
    with pytest.raises(NotFoundError):
        await store.sessions.load(asked.session_id)
    await store.sessions.load(other.session_id)


async def test_what_is_unknown_is_not_found(store: Store) -> None:
    nothing = plan().session_id
    for attempt in (
        store.sessions.load(nothing),
        store.sessions.delete(nothing),
        store.sessions.set_state(nothing, "review"),
        store.sessions.cancelling(nothing),
        store.sessions.reserve_seq(nothing, 100),
        store.sessions.reopen(nothing, 2, "agent_1"),
        store.sessions.begin_attempt(nothing, running()),
        store.sessions.finish_attempt(nothing, done()),
        store.sessions.history(nothing),
        store.sessions.conversation(nothing),
        store.sessions.delete_conversation(nothing),
    ):
        with pytest.raises(NotFoundError, match=nothing):
            await attempt


async def test_a_follow_up_hears_the_last_hundred_turns_in_their_order(store: Store) -> None:
    talk = plan().conversation_id
    for number in range(103):
        one = plan(f"q{number}", conversation_id=talk, created_at=NOON + number)
        await store.sessions.create(one)
        failed = number == 50
        await store.sessions.set_state(
            one.session_id, "failed" if failed else "completed", answer=None if failed else f"a{number}"
        )
    turns = await store.sessions.history(talk)
    assert turns == [(f"q{number}", f"a{number}") for number in range(2, 103) if number != 50]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("καλημέρα 🌍 \u2028 \x85", "καλημέρα 🌍 \u2028 \x85"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("a pair in \ud83c\udf0d two", "a pair in 🌍 two"),
        ("nul\x00", "nul\ufffd"),
    ],
)
async def test_whatever_a_model_writes_can_be_kept(store: Store, written: str, read: str) -> None:
    asked = await kept(store)
    await store.sessions.finish_attempt(asked.session_id, done(text=written, thinking=written))
    (record,) = (await store.sessions.load(asked.session_id)).records
    assert (record.text, record.thinking) == (read, read)


async def test_a_run_away_answer_is_cut_and_its_count_is_kept(store: Store) -> None:
    asked = await kept(store)
    endless = done(text="x" * (MOST_TEXT_CHARS + 1), done_reason="l" * 100, token_usage=TokenUsage.of(1, 2))
    await store.sessions.finish_attempt(asked.session_id, endless)
    (record,) = (await store.sessions.load(asked.session_id)).records
    assert len(record.text) == MOST_TEXT_CHARS
    assert record.done_reason == "l" * 64
    assert record.token_usage == TokenUsage.of(1, 2)
