"""`/api/cluster/usage`: what machines and their engines took, for up to a day."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query

from master.cluster.usage_minutes import charted, step_for
from master.services import Master

router = APIRouter(prefix="/api/cluster", tags=["cluster"])


@router.get("/usage")
async def usage(
    master: Master,
    hours: Annotated[float, Query(gt=0, le=24)] = 1.0,
    node: Annotated[str | None, Query(max_length=63)] = None,
) -> dict[str, Any]:
    """CPU in percent of the whole machine (mean and highest) and memory, in columns by node and part:
    `machine`, `main` and `background` engine, and our own `node` and `master`. A point is `step_s` seconds.
    """
    step_s = step_for(hours)
    stored = await master.store.usage.since(time.time() - hours * 3600, node=node)
    stored += [one for one in master.usage.minutes.untold() if node in (None, one.node)]
    return {"hours": hours, "step_s": step_s, "nodes": charted(stored, step_s=step_s)}
