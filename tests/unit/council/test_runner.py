"""The shell of a session, with a store and a dispatcher that a test holds back where it wants."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from common.usage import CallLatency, TokenUsage
from master.cluster.calls import Answer, Call, CallWatcher
from master.cluster.dispatch import Dispatcher
from master.council.plan import AttemptRecord, Outcome
from master.council.runner import SessionRunner
from master.council.session import Session
from master.state.sessions import SessionRepository
from tests.unit.council.table import plan_of


class SlowStore:
    """Keeps the rows of ended attempts; the first one takes until `go_on`, with its row written already."""

    def __init__(self) -> None:
        self.rows: list[AttemptRecord] = []
        self.writing = asyncio.Event()
        self.go_on = asyncio.Event()

    async def finish_attempt(self, _session_id: str, record: AttemptRecord) -> None:
        self.rows.append(record)
        self.writing.set()
        await self.go_on.wait()

    async def nothing(self, *_: Any, **__: Any) -> None:
        return

    begin_attempt = reserve_seq = set_state = cancelling = nothing


class OneAnswer:
    """Answers the first call; the others are never answered."""

    def __init__(self) -> None:
        self.calls = 0

    async def run(self, _call: Call, watcher: CallWatcher) -> Answer:
        self.calls += 1
        first = self.calls == 1
        await watcher.attempt_started("pc2")
        if not first:
            await asyncio.Event().wait()
        return Answer("pc2", "an answer", "", "stop", TokenUsage.of(10, 4), CallLatency(total_ms=1.0))


async def test_an_answer_that_is_being_committed_when_the_session_is_cancelled_counts() -> None:
    store = SlowStore()
    runner = SessionRunner(
        Session(plan_of("a", "b")),
        store=cast(SessionRepository, store),
        dispatcher=cast(Dispatcher, OneAnswer()),
        seq_head=0,
    )
    running = asyncio.create_task(runner.run(runner.session.start()))
    async with asyncio.timeout(10):
        await store.writing.wait()
        runner.cancel()
        for _ in range(5):  # until the cancellation has reached the call
            await asyncio.sleep(0)
        store.go_on.set()
        await running
    shown = runner.view()
    assert shown.state == "cancelled"
    assert [row.outcome for row in store.rows] == [Outcome.DONE, Outcome.CANCELLED]
    assert shown.token_usage.total_tokens == sum(row.token_usage.total_tokens for row in store.rows) == 14
    assert shown.agents[0].opinion == "an answer"
