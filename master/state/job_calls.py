"""What the model calls of jobs cost: a row before each attempt leaves, closed when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, case, func, insert, select, update

from common.usage import CallLatency, TokenUsage
from master.state.database import Transactions
from master.state.job_tables import JobCallRow

_calls: Table = JobCallRow.__table__  # type: ignore[assignment]  # declared as FromClause
_LATENCIES = tuple(CallLatency.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class CallKey:
    """One attempt of one call."""

    call_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Spent:
    """Attempts and tokens. `unknown`: attempts that were killed before they told their tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_ms: float = 0.0
    unknown: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class JobCallRepository:
    def __init__(self, transactions: Transactions) -> None:
        self._db = transactions

    async def begin(
        self, key: CallKey, *, job_id: str, run: int, owner: str | None, model: str, node: str, at: float
    ) -> None:
        """Keep that an attempt goes out, before it does. `at` in epoch seconds."""
        async with self._db.write() as db:
            await db.execute(
                insert(_calls).values(
                    call_id=key.call_id,
                    attempt=key.attempt,
                    job_id=job_id,
                    run=run,
                    owner=owner,
                    model=model,
                    node=node,
                    outcome="running",
                    started_at=at,
                )
            )

    async def end(
        self,
        key: CallKey,
        outcome: str,
        usage: TokenUsage,
        latency: CallLatency,
        *,
        at: float,
        error: dict[str, Any] | None = None,
        usage_unknown: bool = False,
        model: str = "",
    ) -> None:
        """Keep how an attempt ended and what it cost; `model`: which one it was, where that is known now."""
        values = {name: getattr(latency, name) for name in _LATENCIES} | ({"model": model} if model else {})
        async with self._db.write() as db:
            await db.execute(
                update(_calls)
                .where(_calls.c.call_id == key.call_id, _calls.c.attempt == key.attempt)
                .values(
                    outcome=outcome,
                    error=error,
                    prompt_tokens=usage.prompt_tokens,
                    completion_tokens=usage.completion_tokens,
                    usage_unknown=usage_unknown,
                    ended_at=at,
                    **values,
                )
            )

    async def spent(self, *, since: float | None = None, job_id: str | None = None) -> Spent:
        """The sum over all attempts that began since then (epoch seconds), or of one job."""
        query = select(
            func.count(),
            func.coalesce(func.sum(_calls.c.prompt_tokens), 0),
            func.coalesce(func.sum(_calls.c.completion_tokens), 0),
            func.coalesce(func.sum(_calls.c.total_ms), 0.0),
            func.coalesce(func.sum(case((_calls.c.usage_unknown, 1), else_=0)), 0),
        )
        if since is not None:
            query = query.where(_calls.c.started_at >= since)
        if job_id is not None:
            query = query.where(_calls.c.job_id == job_id)
        async with self._db.read() as db:
            calls, prompt, completion, total_ms, unknown = (await db.execute(query)).one()
        return Spent(calls, prompt, completion, round(total_ms, 3), unknown)
