"""The gate of background work: what it says, and who tells it that somebody is there."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import NotFoundError
from master.background.gate_status import gate_status
from master.services import Master, Services

router = APIRouter(prefix="/api/background", tags=["background"])

# What a person changes by hand. Calls of models are heard where they are dispatched, whoever makes them.
_BY_HAND = ("/api/council/", "/api/conversation")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Activity(BaseModel):
    """Who is there. `node`: somebody uses that PC for something else; nobody may be there for the council."""

    model_config = ConfigDict(extra="forbid")

    node: str | None = Field(None, min_length=1, max_length=63)


@router.get("/gate")
async def show_gate(master: Master) -> dict[str, Any]:
    """Whether background work may run now and why, for the cluster and for each machine."""
    return gate_status(master.gatekeeper.gate, master.gatekeeper.pattern)


@router.delete("/gate/habits", status_code=204)
async def forget_habits(master: Master) -> None:
    """Forget at which hours people usually are there; it is learned anew."""
    await master.gatekeeper.forget_pattern()


@router.post("/register_activity")
async def register_activity(master: Master, body: Activity | None = None) -> dict[str, Any]:
    """Somebody is there: background work stops at once and waits for the next idle time."""
    node = body.node if body is not None else None
    if node is not None and node not in master.registry.nodes:
        known = ", ".join(sorted(master.registry.nodes)) or "none"
        raise NotFoundError(f"no node is named {node}; known: {known}")
    master.gatekeeper.hear(node)
    verdict = master.gatekeeper.verdict(node)
    return {"registered": True, "state": str(verdict.state), "reason": verdict.reason}


class Ears:
    """Pure ASGI: tells the gate of what people change by hand, such as a conversation that they delete.

    Looking is no activity: status pages that refresh themselves would keep the gate shut for ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _READING and scope["path"].startswith(_BY_HAND):
            services: Services = scope["app"].state.services
            services.gatekeeper.hear()
        await self._app(scope, receive, send)
