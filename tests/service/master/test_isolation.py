"""People before jobs, with real processes: what `python -m tests.bench --only isolation` puts a figure on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.service.master import rig
from tests.service.master.rig import Rig, model
from tests.standin import StandInOllama
from tests.standin.journal import CallRecord

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
JOB_TOKENS, TOKEN_MS = 100, 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One node whose model has a single slot."""
    writer = model("m1", token_ms=TOKEN_MS, answer_tokens=JOB_TOKENS)
    async with rig.running(tmp_path_factory.mktemp("narrow"), models=[writer], slots=1) as found:
        yield found


def _body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m1", "messages": [{"role": "user", "content": text}], **more}


def _of(standin: StandInOllama, text: str) -> list[CallRecord]:
    return [one for one in standin.calls(kind="chat") if one.messages and one.messages[-1]["content"] == text]


async def test_a_job_on_the_only_slot_leaves_for_a_chat_and_is_done_after_it(narrow: Rig) -> None:
    """The job's stream is closed down to the engine, not waited for, and the job is whole in the end."""
    job = asyncio.create_task(narrow.client.post(CHAT, json=_body("a job", service_tier="flex")))
    await narrow.standin.until(lambda standin: any(one.first_token_ms for one in _of(standin, "a job")))
    chat = await narrow.client.post(CHAT, json=_body("a chat", max_tokens=5))
    done = await job
    assert (chat.status_code, done.status_code) == (200, 200), (chat.text, done.text)
    [cut, again] = _of(narrow.standin, "a job")
    [answered] = _of(narrow.standin, "a chat")
    assert (cut.outcome, answered.outcome, again.outcome) == ("cancelled", "done", "done")
    assert cut.tokens_sent < JOB_TOKENS
    assert cut.finished_ms is not None
    assert answered.started_ms is not None
    assert cut.finished_ms <= answered.started_ms
    assert again.eval_count == done.json()["usage"]["completion_tokens"] == JOB_TOKENS


async def test_nobody_waits_behind_jobs_that_wait(narrow: Rig) -> None:
    narrow.standin.reset()
    async with asyncio.TaskGroup() as group:
        jobs = [
            group.create_task(
                narrow.client.post(CHAT, json=_body(f"job {number}", service_tier="flex", max_tokens=10))
            )
            for number in range(8)
        ]
        await narrow.standin.until(lambda standin: standin.calls(kind="chat"))
        chat = await narrow.client.post(CHAT, json=_body("a chat", max_tokens=5))
        before = sum(task.done() for task in jobs)
    assert chat.status_code == 200
    assert before <= 2, "the chat came after jobs that had waited longer"
    assert [task.result().status_code for task in jobs] == [200] * 8
