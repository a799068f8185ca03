"""A job as the API shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from master.state.job_calls import Spent
from master.state.jobs import Job
from master.state.schedules import Schedule


def job_view(job: Job, spent: Spent | None = None) -> dict[str, Any]:
    """`spent`: what its model calls cost, over all its runs."""
    shown: dict[str, Any] = {
        "id": job.id,
        "type": job.type,
        "priority": job.priority,
        "state": "cancelling" if job.cancelling and job.state == "running" else job.state,
        "input": job.input,
        "custom_id": job.custom_id,
        "batch_id": job.batch_id,
        "run": job.run,
        "attempts": job.attempts,
        "progress": {"done": job.done, "total": job.total, "note": job.note},
        "result": job.result,
        "cause": job.cause,
        "not_before": _moment(job.not_before),
        "created_at": _moment(job.created_at),
        "started_at": _moment(job.started_at),
        "ended_at": _moment(job.ended_at),
        "executor": job.owner,
    }
    if spent is not None:
        shown["usage"] = spent_view(spent)
    return shown


def item_view(job: Job) -> dict[str, Any]:
    """A job as an item of its batch."""
    return {
        "custom_id": job.custom_id,
        "job_id": job.id,
        "state": job.state,
        "result": job.result,
        "cause": job.cause,
    }


def spent_view(spent: Spent) -> dict[str, Any]:
    return {
        "calls": spent.calls,
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.total_tokens,
        "total_ms": spent.total_ms,
        "calls_of_unknown_usage": spent.unknown,
    }


def schedule_view(schedule: Schedule) -> dict[str, Any]:
    return {
        "name": schedule.name,
        "type": schedule.type,
        "input": schedule.input,
        "cron": schedule.cron,
        "priority": schedule.priority,
        "next_at": _moment(schedule.next_at),
        "last_at": _moment(schedule.last_at),
    }


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
