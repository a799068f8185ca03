"""The queue of jobs in its tables: order, keys, owners, retention, schedules. On each kind of database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.errors import ConflictError, NotFoundError
from common.usage import CallLatency, TokenUsage
from master.state.job_calls import CallKey
from master.state.jobs import Job, NewJob
from master.state.schedules import Schedule
from master.state.store import Store

TYPES = ("a", "b")
CAUSE: dict[str, Any] = {"code": "context_overflow", "detail": "too long"}


def new(priority: int = 20, type_name: str = "a", **named: Any) -> NewJob:
    return NewJob(type_name, {"text": "ein Wort"}, priority, **named)


async def add(store: Store, *jobs: NewJob) -> list[str]:
    return [(await store.jobs.submit(job)).id for job in jobs]


async def claim(store: Store, owner: str = "me", limit: int = 10, **named: Any) -> list[Job]:
    return await store.job_queue.claim(owner, TYPES, limit=limit, now=datetime.now(UTC), **named)


async def dead(store: Store, **named: Any) -> str:
    (job_id,) = await add(store, new(**named))
    await claim(store)
    await store.job_queue.bury(job_id, "me", CAUSE, attempts=1)
    return job_id


async def test_the_most_urgent_is_claimed_first_and_of_equals_the_oldest(store: Store) -> None:
    ids = await add(store, new(30), new(10), new(20), new(10), new(20))
    batch = await store.jobs.submit_batch("a", [new(20) for _ in range(3)])
    _, _, of_batch = await store.jobs.batch(batch)
    first = await claim(store, limit=3)
    rest = await claim(store)
    order = [job.id for job in first + rest]
    assert order == [ids[1], ids[3], ids[2], ids[4], *(job.id for job in of_batch), ids[0]]
    assert await claim(store) == []


async def test_executors_that_claim_at_once_never_get_the_same_job(store: Store) -> None:
    ids = await add(store, *(new() for _ in range(12)))
    claims = await asyncio.gather(*(claim(store, f"executor-{number}", limit=4) for number in range(6)))
    got = [job.id for jobs in claims for job in jobs]
    assert sorted(got) == sorted(ids)


async def test_all_executors_together_run_no_more_than_allowed(store: Store) -> None:
    await add(store, *(new() for _ in range(5)))
    assert len(await claim(store, "one", limit=2, most_running=3)) == 2
    assert len(await claim(store, "two", limit=2, most_running=3)) == 1
    assert await claim(store, "three", limit=2, most_running=3) == []


async def test_a_long_job_starts_only_in_its_time_and_then_goes_on(store: Store) -> None:
    (job_id,) = await add(store, new(long=True))
    assert await claim(store, long=False) == []
    assert [job.id for job in await claim(store, long=True)] == [job_id]
    await store.job_queue.put_back(job_id, "me")
    assert [job.id for job in await claim(store, long=False)] == [job_id]


async def test_a_job_waits_until_its_time_has_come(store: Store) -> None:
    now = datetime.now(UTC)
    (job_id,) = await add(store, new(not_before=now + timedelta(hours=1)))
    assert await claim(store) == []
    wait_s = await store.job_queue.next_due(now)
    assert wait_s is not None
    assert 3595 < wait_s <= 3600
    late = now + timedelta(hours=1, seconds=1)
    assert [job.id for job in await store.job_queue.claim("me", TYPES, limit=1, now=late)] == [job_id]


async def test_of_many_that_come_at_once_with_one_key_one_is_made(store: Store) -> None:
    added = await asyncio.gather(*(store.jobs.submit(new(key="same")) for _ in range(8)))
    assert sum(one.is_new for one in added) == 1
    assert len({one.id for one in added}) == 1
    (job,) = await claim(store)
    await store.job_queue.finish(job.id, "me", {"ok": True})
    again = await store.jobs.submit(new(key="same"))
    assert again.is_new


async def test_a_job_exists_exactly_when_the_transaction_of_its_rows_is_committed(store: Store) -> None:
    async def fails() -> None:
        async with store.jobs._db.write() as db:
            await store.jobs.add(db, new())
            raise RuntimeError("the rest of the transaction failed")

    with pytest.raises(RuntimeError):
        await fails()
    assert await store.jobs.counts() == {}


async def test_who_lost_a_job_settles_nothing(store: Store) -> None:
    (job_id,) = await add(store, new())
    await claim(store, "gone")
    assert await store.job_queue.owners() == {"gone"}
    assert await store.job_queue.take_from("gone") == [job_id]
    await claim(store, "heir")
    assert not await store.job_queue.finish(job_id, "gone", {"stale": True})
    assert not await store.job_queue.progress(job_id, "gone", 1, 2, "")
    assert not await store.job_queue.put_back(job_id, "gone")
    assert await store.job_queue.finish(job_id, "heir", {"fresh": True})
    job = await store.jobs.get(job_id)
    assert (job.state, job.result, job.handed) == ("done", {"fresh": True}, 2)


async def test_calls_of_a_dead_executor_count_as_interrupted_with_unknown_usage(store: Store) -> None:
    (job_id,) = await add(store, new())
    await claim(store, "gone")
    about = {"job_id": job_id, "run": 1, "model": "m", "node": "pc2", "at": 100.0}
    await store.job_calls.begin(CallKey("one", 1), owner="gone", **about)  # type: ignore[arg-type]
    await store.job_calls.end(CallKey("one", 1), "done", TokenUsage.of(7, 3), CallLatency(total_ms=5), at=101)
    await store.job_calls.begin(CallKey("two", 1), owner="gone", **about)  # type: ignore[arg-type]
    await store.job_queue.take_from("gone")
    spent = await store.job_calls.spent(job_id=job_id)
    assert (spent.calls, spent.total_tokens, spent.total_ms, spent.unknown) == (2, 10, 5.0, 1)
    assert (await store.job_calls.spent(since=101.0)).calls == 0


async def test_a_job_whose_executor_died_while_it_was_cancelled_is_cancelled(store: Store) -> None:
    (job_id,) = await add(store, new())
    await claim(store, "gone")
    assert (await store.job_control.cancel(job_id)).cancelling
    assert await store.job_queue.cancelling("gone") == [job_id]
    await store.job_queue.take_from("gone")
    assert (await store.jobs.get(job_id)).state == "cancelled"


async def test_only_what_ended_badly_can_be_retried(store: Store) -> None:
    (job_id,) = await add(store, new())
    with pytest.raises(ConflictError, match="queued"):
        await store.job_control.retry(job_id)
    await store.job_control.cancel(job_id)
    job = await store.job_control.retry(job_id)
    assert (job.state, job.run) == ("queued", 2)
    with pytest.raises(NotFoundError):
        await store.job_control.retry("nothing")


async def test_replaying_all_makes_no_second_job_of_a_key(store: Store) -> None:
    first = await dead(store, key="same")
    second = await dead(store, key="same")
    other = await dead(store)
    of_b = await dead(store, type_name="b")
    assert await store.job_control.replay("b") == 1
    assert await store.job_control.replay() == 2
    states = {job_id: (await store.jobs.get(job_id)).state for job_id in (first, second, other, of_b)}
    assert states == {first: "queued", second: "dead", other: "queued", of_b: "queued"}
    with pytest.raises(ConflictError, match=first):
        await store.job_control.retry(second)


async def test_what_ended_long_ago_is_deleted_and_dead_letters_stay(store: Store) -> None:
    letter = await dead(store)
    done, cancelled, waiting = await add(store, new(), new(), new(priority=99))
    await claim(store, limit=1)
    await store.job_queue.finish(done, "me", None)
    await store.job_control.cancel(cancelled)
    assert await store.jobs.expired(timedelta(days=1)) == []
    old = await store.jobs.expired(timedelta(0))
    assert sorted(old) == sorted([done, cancelled])
    await store.job_control.retry(cancelled)  # just now, while the engine forgets it
    await store.jobs.delete(old, timedelta(0))
    assert (await store.jobs.get(cancelled)).state == "queued"
    with pytest.raises(NotFoundError):
        await store.jobs.get(done)
    assert (await store.jobs.get(waiting)).state == "queued"
    await store.job_control.dismiss(letter)
    assert await store.jobs.expired(timedelta(0)) == [letter]


async def test_lists_go_page_by_page_newest_first(store: Store) -> None:
    ids = await add(store, *(new() for _ in range(5)))
    first, cursor = await store.jobs.list(limit=3)
    second, end = await store.jobs.list(limit=3, cursor=cursor)
    assert [job.id for job in first + second] == ids[::-1]
    assert end is None
    found, _ = await store.jobs.list(states=("done",))
    assert found == []


async def test_two_masters_fire_a_schedule_once(store: Store) -> None:
    due = datetime(2026, 5, 4, 3, 30, tzinfo=UTC)
    await store.schedules.add(Schedule("nightly", "a", {}, "30 3 * * *", None, due))
    (schedule,) = await store.schedules.list(due=due)
    later = due + timedelta(days=1)
    fired = await asyncio.gather(*(store.schedules.fire(schedule, new(), later) for _ in range(4)))
    assert sum(one is not None for one in fired) == 1
    assert await store.jobs.counts() == {"queued": {"a": 1}}
    (moved,) = await store.schedules.list()
    assert (moved.next_at, moved.last_at) == (later, due)
    with pytest.raises(ConflictError):
        await store.schedules.add(schedule)
    await store.schedules.remove("nightly")
    with pytest.raises(NotFoundError):
        await store.schedules.remove("nightly")


async def test_the_queue_stays_paused_across_restarts(store: Store) -> None:
    assert await store.job_control.paused() == (False, "")
    await store.job_control.pause(True, "moving house")
    await store.job_control.pause(True, "still moving")
    assert await store.job_control.paused() == (True, "still moving")
    await store.job_control.pause(False)
    assert await store.job_control.paused() == (False, "")
