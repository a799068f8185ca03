"""`/api/background`: jobs, batches, dead letters, and why nothing runs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from common.errors import InvalidRequestError, PayloadTooLargeError
from master.api.schemas import Words
from master.background.caps import midnight_before
from master.background.gate_status import gate_status
from master.background.job_view import item_view, job_view, schedule_view, spent_view
from master.services import Master
from master.state.jobs import NewJob

router = APIRouter(prefix="/api/background", tags=["background"])

MOST_ITEMS = 1000
Priority = Annotated[int, Field(ge=0, le=1000)]
State = Literal["queued", "waiting", "running", "done", "failed", "dead", "cancelled"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SubmitJob(_Body):
    """`key`: while a job with it is pending, submitting again gives that one."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    input: dict[str, Any] = Field(default_factory=dict)
    priority: Priority | None = None
    key: Annotated[Words, Field(min_length=1, max_length=200)] | None = None
    custom_id: Annotated[Words, Field(min_length=1, max_length=200)] | None = None


class BatchItem(_Body):
    custom_id: Annotated[Words, Field(min_length=1, max_length=200)]
    input: dict[str, Any] = Field(default_factory=dict)


class SubmitBatch(_Body):
    type: Annotated[str, Field(min_length=1, max_length=64)]
    items: Annotated[list[BatchItem], Field(min_length=1)]
    priority: Priority | None = None


class AddSchedule(_Body):
    """`cron`: minute, hour, day, month, weekday on the clock of the master's machine."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    type: Annotated[str, Field(min_length=1, max_length=64)]
    input: dict[str, Any] = Field(default_factory=dict)
    cron: Annotated[str, Field(min_length=9, max_length=100)]
    priority: Priority | None = None


class Pause(_Body):
    reason: Annotated[Words, Field(max_length=500)] = ""


class Replay(_Body):
    type: Annotated[str, Field(min_length=1, max_length=64)] | None = None


@router.get("/status")
async def status(master: Master) -> dict[str, Any]:
    """The queue by state and type, what holds work back and why, what runs, where its model calls go
    (`engine`), and what today has cost.
    """
    jobs, executor = master.jobs, master.jobs.executor
    running, _ = await master.store.jobs.list(states=("running",), limit=200)
    spent = await master.store.job_calls.spent(since=midnight_before(datetime.now()).timestamp())
    caps = jobs.limits.caps
    counts = await master.store.jobs.counts()
    types = jobs.catalogue.types.values()
    return {
        "jobs": {state: sum(of_type.values()) for state, of_type in counts.items()},
        "by_type": counts,
        "waiting_for": executor.waiting_for() or caps.reason(calls=spent.calls, tokens=spent.total_tokens),
        "gate": gate_status(master.gatekeeper.gate, master.gatekeeper.pattern),
        "use": master.usage.now(),
        "paused": jobs.paused[0],
        "holds": jobs.holds(),
        "runs_here": executor.takes_jobs,
        "unknown_types": jobs.unknown_types(counts),
        "concurrency": jobs.limits.concurrency,
        "running": [job_view(job) for job in running],
        "today": {
            **spent_view(spent),
            "max_calls": caps.calls,
            "max_tokens": caps.tokens,
        },
        "engine": master.background.status(),
        "types": [{"name": one.name, "priority": one.priority, "long": one.long} for one in types],
    }


@router.get("/jobs")
async def list_jobs(
    master: Master,
    state: Annotated[list[State] | None, Query()] = None,
    type: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Newest first; `next_cursor` fetches the next page."""
    found, next_cursor = await master.store.jobs.list(
        states=state or (), type_name=type, limit=limit, cursor=cursor
    )
    return {"jobs": [job_view(job) for job in found], "next_cursor": next_cursor}


@router.post("/jobs", status_code=201)
async def submit_job(body: SubmitJob, master: Master, response: Response) -> dict[str, Any]:
    """Submit a job: 201, or 200 with the pending job that has the same `key`."""
    job = master.jobs.catalogue.new(
        body.type, body.input, priority=body.priority, key=body.key, custom_id=body.custom_id
    )
    added = await master.jobs.submit(job)
    if not added.is_new:
        response.status_code = 200
    response.headers["Location"] = f"/api/background/task/{added.id}"
    return job_view(await master.store.jobs.get(added.id))


@router.get("/task/{job_id}")
async def get_job(job_id: UUID, master: Master) -> dict[str, Any]:
    """One job, with what its model calls cost over all its runs."""
    job = await master.store.jobs.get(str(job_id))
    return job_view(job, await master.store.job_calls.spent(job_id=job.id))


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(job_id: UUID, master: Master) -> dict[str, Any]:
    """Cancel a job, down to the engine of its model call; 409 when it has ended."""
    return job_view(await master.jobs.cancel(str(job_id)))


@router.post("/jobs/{job_id}/retry", status_code=202)
async def retry_job(job_id: UUID, master: Master) -> dict[str, Any]:
    """Run a dead, cancelled or dismissed job again, behind its last finished step."""
    return job_view(await master.jobs.retry(str(job_id)))


@router.get("/dead")
async def list_dead(
    master: Master,
    type: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Dead letters with their cause, newest first; they stay until they are retried or dismissed."""
    found, next_cursor = await master.store.jobs.list(
        states=("dead",), type_name=type, limit=limit, cursor=cursor
    )
    return {"jobs": [job_view(job) for job in found], "next_cursor": next_cursor}


@router.post("/dead/replay", status_code=202)
async def replay_dead(master: Master, body: Replay | None = None) -> dict[str, Any]:
    """Run all dead letters (of a type) again."""
    return {"replayed": await master.jobs.replay(body.type if body else None)}


@router.delete("/dead")
async def dismiss_all_dead(master: Master) -> dict[str, Any]:
    """Take all dead letters off the list; they are kept as failed jobs for a while, and can be retried."""
    return {"dismissed": await master.store.job_control.dismiss_all()}


@router.delete("/dead/{job_id}", status_code=204)
async def dismiss_dead(job_id: UUID, master: Master) -> None:
    """Take one dead letter off the list."""
    await master.store.job_control.dismiss(str(job_id))


@router.post("/batch", status_code=201)
async def submit_batch(body: SubmitBatch, master: Master, response: Response) -> dict[str, Any]:
    """Submit many jobs of one type: all of them or, where one input is wrong, none."""
    if len(body.items) > MOST_ITEMS:
        raise PayloadTooLargeError(f"a batch may have {MOST_ITEMS} items at most")
    jobs: list[NewJob] = []
    for place, item in enumerate(body.items):
        try:
            jobs.append(
                master.jobs.catalogue.new(
                    body.type, item.input, priority=body.priority, custom_id=item.custom_id
                )
            )
        except InvalidRequestError as error:
            raise InvalidRequestError(f"items.{place} ({item.custom_id}): {error.detail}") from error
    if len({item.custom_id for item in body.items}) < len(body.items):
        raise InvalidRequestError("two items of the batch have the same custom_id")
    batch_id = await master.jobs.submit_batch(body.type, jobs)
    response.headers["Location"] = f"/api/background/batch/{batch_id}"
    return await _batch(master, batch_id)


@router.get("/batch/{batch_id}")
async def get_batch(batch_id: UUID, master: Master) -> dict[str, Any]:
    """A batch with its items in the order they were submitted in, each with its state and result."""
    return await _batch(master, str(batch_id))


async def _batch(master: Master, batch_id: str) -> dict[str, Any]:
    type_name, created_at, jobs = await master.store.jobs.batch(batch_id)
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.state] = counts.get(job.state, 0) + 1
    return {
        "id": batch_id,
        "type": type_name,
        "created_at": created_at.isoformat(),
        "counts": counts,
        "ended": not any(job.state in ("queued", "waiting", "running") for job in jobs),
        "items": [item_view(job) for job in jobs],
    }


@router.post("/pause")
async def pause(master: Master, body: Pause | None = None) -> dict[str, Any]:
    """Start no job until the queue is resumed; what runs goes on. It stays so across restarts."""
    await master.jobs.pause(True, body.reason if body else "")
    return {"paused": True}


@router.post("/resume")
async def resume(master: Master) -> dict[str, Any]:
    await master.jobs.pause(False)
    return {"paused": False}


@router.get("/schedules")
async def list_schedules(master: Master) -> dict[str, Any]:
    """Jobs that are submitted again and again."""
    return {"schedules": [schedule_view(one) for one in await master.store.schedules.list()]}


@router.post("/schedules", status_code=201)
async def add_schedule(body: AddSchedule, master: Master) -> dict[str, Any]:
    """Submit a job at every time that `cron` names; while the last one is pending, no second one is made."""
    schedule = await master.jobs.add_schedule(body.name, body.type, body.input, body.cron, body.priority)
    return schedule_view(schedule)


@router.delete("/schedules/{name}", status_code=204)
async def remove_schedule(name: str, master: Master) -> None:
    await master.store.schedules.remove(name)
