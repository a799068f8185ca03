"""`/api/background/engine`: where background calls go, and what is wrong with their engine."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from master.services import Master

router = APIRouter(prefix="/api/background", tags=["background"])


@router.get("/engine")
async def background_engine(master: Master) -> dict[str, Any]:
    """`state` of the engines of that name (`connected`, `down`, `none`), the `target` of calls now, a
    `warning` while that is not the background engine, the model, and each node with such an engine.
    """
    return master.background.status()
