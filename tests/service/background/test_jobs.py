"""Jobs from submission to their end, on a real database and the real job engine."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from common import errors
from master.background.caps import Caps
from master.background.limits import JobLimits
from master.state.job_tables import JobRow
from master.state.jobs import NewJob
from master.state.schedules import Schedule
from tests.haste import soon
from tests.service.background.workshop import Workshop, workshop


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(tmp_path) as found:
        yield found


def marks(folder: Path, job_id: str) -> Counter[str]:
    """How often each step of a job was done."""
    return Counter(path.stem for path in folder.glob(f"{job_id}-*"))


async def test_a_job_runs_its_steps_and_gives_its_result(shop: Workshop, tmp_path: Path) -> None:
    job_id = await shop.submit("steps", {"folder": str(tmp_path), "steps": 3})
    job = await shop.reaches(job_id)
    assert (job.state, job.result, job.done, job.total) == ("done", {"total": 6}, 3, 3)
    assert set(marks(tmp_path, job_id).values()) == {1}
    assert job.owner is None
    assert job.ended_at is not None


async def test_a_failure_that_may_pass_is_retried_behind_the_last_finished_step(
    shop: Workshop, tmp_path: Path
) -> None:
    job_id = await shop.submit("failing", {"folder": str(tmp_path), "times": 2})
    job = await shop.reaches(job_id)
    assert (job.state, job.attempts, job.result) == ("done", 2, {"second": 3})
    assert marks(tmp_path, job_id) == {f"{job_id}-first": 1, f"{job_id}-second": 3}


async def test_a_poisoned_job_is_a_dead_letter_at_once_and_its_retry_repeats_only_the_failed_step(
    shop: Workshop, tmp_path: Path
) -> None:
    given = {"folder": str(tmp_path), "times": 1, "code": "context_overflow", "before": 2}
    job_id = await shop.submit("failing", given)
    job = await shop.reaches(job_id)
    assert job.state == "dead"
    assert job.cause is not None
    assert (job.cause["code"], job.cause["node"]) == ("context_overflow", "pc2")
    await shop.jobs.retry(job_id)
    job = await shop.reaches(job_id)
    assert (job.state, job.run, job.cause) == ("done", 2, None)
    assert marks(tmp_path, job_id) == {f"{job_id}-first": 2, f"{job_id}-second": 2}


async def test_surroundings_that_are_away_burn_no_attempt(shop: Workshop, tmp_path: Path) -> None:
    given = {"folder": str(tmp_path), "times": 4, "code": "engine_unavailable"}
    job_id = await shop.submit("failing", given)
    job = await shop.reaches(job_id, within_s=30.0)
    assert (job.state, job.attempts) == ("done", 0)
    assert job.pauses == 4


async def test_a_running_job_is_cancelled_down_to_its_model_call_within_a_second(shop: Workshop) -> None:
    shop.parrot.hangs = True

    async def cancel_s() -> float:
        before = shop.parrot.cancelled
        shop.parrot.hanging.clear()
        job_id = await shop.submit("asking")
        async with asyncio.timeout(30):
            await shop.parrot.hanging.wait()
        began = time.monotonic()
        job = await shop.jobs.cancel(job_id)
        took_s = time.monotonic() - began
        assert (job.state, shop.parrot.cancelled) == ("cancelled", before + 1)
        spent = await shop.store.job_calls.spent(job_id=job_id)
        assert (spent.calls, spent.unknown) == (1, 1)
        with pytest.raises(errors.ConflictError):
            await shop.jobs.cancel(job_id)
        return took_s

    await soon(1.0, cancel_s)


async def test_jobs_are_released_by_priority_and_age_whatever_came_while_the_gate_was_closed(
    tmp_path: Path,
) -> None:
    async with workshop(tmp_path, is_open=False, limits=JobLimits(concurrency=1)) as shop:
        late = [await shop.submit("nothing", {"number": one}, priority=30) for one in range(3)]
        soon = [await shop.submit("nothing", {"number": one}, priority=10) for one in range(3)]
        assert shop.jobs.executor.waiting_for() == "somebody is here"
        shop.door.move(is_open=True)
        for job_id in late + soon:
            await shop.reaches(job_id)
        found, _ = await shop.store.jobs.list(limit=10)
        order = [job.id for job in sorted(found, key=lambda job: job.ended_at or job.created_at)]
        assert order == soon + late


async def test_a_job_that_meets_a_closed_gate_gives_its_place_back_and_asks_nothing_twice(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("master.background.run.GATE_PATIENCE_S", 0.05)
    shop.parrot.after_call = lambda: shop.door.move(is_open=False)
    job_id = await shop.submit("asking", {"calls": 2})
    async with asyncio.timeout(15):
        await shop.parrot.answered.wait()
    job = await shop.reaches(job_id, "queued")
    await shop.settled()
    assert (job.handed, job.attempts, job.done, len(shop.parrot.calls)) == (1, 0, 1, 1)
    shop.parrot.after_call = None
    shop.door.move(is_open=True)
    job = await shop.reaches(job_id)
    assert (job.state, job.handed, len(shop.parrot.calls)) == ("done", 2, 2)


async def test_while_a_job_with_its_key_is_pending_no_second_one_is_made(shop: Workshop) -> None:
    shop.door.move(is_open=False)
    first = await shop.jobs.submit(shop.jobs.catalogue.new("nothing", {}, key="one"))
    second = await shop.jobs.submit(shop.jobs.catalogue.new("nothing", {}, key="one"))
    assert (second.id, second.is_new) == (first.id, False)
    shop.door.move(is_open=True)
    await shop.reaches(first.id)
    third = await shop.jobs.submit(shop.jobs.catalogue.new("nothing", {}, key="one"))
    assert third.is_new
    assert third.id != first.id


async def test_a_stop_in_order_puts_jobs_back_and_the_next_life_goes_on_behind_the_last_step(
    shop: Workshop, tmp_path: Path
) -> None:
    job_id = await shop.submit("waiting", {"folder": str(tmp_path)})
    await shop.reaches(job_id, "running")
    await shop.restart()
    (tmp_path / "go").touch()
    job = await shop.reaches(job_id)
    assert (job.state, job.attempts, job.handed) == ("done", 0, 2)


async def test_the_daily_cap_holds_work_back_until_midnight_and_says_so(tmp_path: Path) -> None:
    limits = JobLimits(caps=Caps(calls=2), first_pause_s=0.05)
    async with workshop(tmp_path, limits=limits) as shop:
        job_id = await shop.submit("asking", {"calls": 3})
        job = await shop.reaches(job_id, "waiting", "done")
        assert job.state == "waiting"
        assert job.cause is not None
        assert job.cause["code"] == "cap_reached"
        assert len(shop.parrot.calls) == 2
        assert (await shop.store.job_calls.spent()).total_tokens == 20


async def test_jobs_that_need_no_model_make_no_model_call(shop: Workshop) -> None:
    jobs = [shop.jobs.catalogue.new("nothing", {"number": one}) for one in range(50)]
    batch_id = await shop.jobs.submit_batch("nothing", jobs)
    for job in jobs:
        await shop.reaches(job.id)
    _, _, done = await shop.store.jobs.batch(batch_id)
    assert [job.result for job in done] == [{"number": one} for one in range(50)]
    assert shop.parrot.calls == []


async def test_a_long_job_waits_for_its_time(tmp_path: Path) -> None:
    async with workshop(tmp_path, long=False) as shop:
        long = await shop.submit("long", priority=1)
        short = await shop.submit("nothing")
        assert (await shop.reaches(short)).state == "done"
        assert (await shop.store.jobs.get(long)).state == "queued"
        shop.door.long = True
        shop.door.move(is_open=True)
        assert (await shop.reaches(long)).state == "done"


async def test_a_schedule_that_was_missed_is_made_up_once_and_not_again_after_a_restart(
    shop: Workshop,
) -> None:
    due = datetime.now(UTC) - timedelta(days=3)
    await shop.store.schedules.add(Schedule("nightly", "nothing", {"number": 7}, "30 3 * * *", 5, due))
    await shop.restart()
    async with asyncio.timeout(15):
        while not (await shop.store.jobs.counts()).get("done"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    (moved,) = await shop.store.schedules.list()
    assert moved.last_at == due
    assert moved.next_at > datetime.now(UTC)
    await shop.restart()
    (job,), _ = await shop.store.jobs.list()
    assert (job.result, job.priority) == ({"number": 7}, 5)


async def test_a_job_of_a_type_that_is_gone_waits_and_is_told_of(shop: Workshop) -> None:
    await shop.store.jobs.submit(NewJob("gone", {}, 1))
    assert (await shop.reaches(await shop.submit("nothing"))).state == "done"
    counts = await shop.store.jobs.counts()
    assert counts["queued"] == {"gone": 1}
    assert shop.jobs.unknown_types(counts) == ["gone"]


async def test_a_job_whose_program_changed_begins_anew(shop: Workshop, tmp_path: Path) -> None:
    given = {"folder": str(tmp_path), "code": "context_overflow", "times": 1}
    job_id = await shop.submit("failing", given)
    await shop.reaches(job_id, "dead")
    async with shop.store.jobs._db.write() as db:  # as if `failing` were `steps` from now on
        changed = {"type": "steps", "input": {"folder": str(tmp_path)}}
        await db.execute(update(JobRow).where(JobRow.id == job_id).values(**changed))
    await shop.jobs.retry(job_id)
    job = await shop.reaches(job_id)
    assert (job.state, job.result, job.cause) == ("done", {"total": 6}, None)


async def test_what_is_deleted_after_its_time_is_forgotten_by_the_engine_too(tmp_path: Path) -> None:
    limits = JobLimits(retention=timedelta(0))
    async with workshop(tmp_path, limits=limits) as shop:
        job_id = await shop.submit("steps", {"folder": str(tmp_path)})
        dead = await shop.submit("failing", {"folder": str(tmp_path), "code": "not_supported", "times": 9})
        await shop.reaches(job_id)
        await shop.reaches(dead, "dead")
        await shop.restart()  # it looks for what is too old when it starts
        async with asyncio.timeout(15):
            while (await shop.store.jobs.counts()).get("done"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        with closing(sqlite3.connect(tmp_path / "council-jobs.db")) as raw:
            kept = raw.execute("SELECT workflow_uuid FROM workflow_status").fetchall()
        assert kept == [(dead,)]


async def test_the_engine_starts_with_the_first_job_and_stops_when_there_was_none_for_a_while(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not shop.jobs.executor.engine_runs
    await shop.reaches(await shop.submit("nothing"))
    assert shop.jobs.executor.engine_runs
    monkeypatch.setattr("master.background.executor._ENGINE_IDLE_S", 0.0)
    shop.jobs.wake()
    async with asyncio.timeout(15):
        while shop.jobs.executor.engine_runs:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await asyncio.to_thread(lambda: "threads work as before") == "threads work as before"
    assert (await shop.reaches(await shop.submit("nothing"))).state == "done"
