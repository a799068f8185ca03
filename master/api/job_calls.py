"""`POST /api/background/call`: a model call of a job that runs in a worker process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from common.asgi import ClientGoneError, UntilHangUp
from common.errors import ConflictError
from common.protocol import Message, Role, ThinkLevel
from master.background.job import BackgroundCall
from master.services import Master

router = APIRouter(prefix="/api/background", tags=["background"])


class Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    content: str


class JobCall(BaseModel):
    """Which job asks, in whose hands it is, and what it asks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: UUID
    executor: Annotated[str, Field(min_length=1, max_length=100)]
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    messages: Annotated[list[Said], Field(min_length=1, max_length=1000)]
    format: Literal["json"] | dict[str, Any] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    think: ThinkLevel | None = None
    prefix_key: Annotated[str, Field(max_length=400)] | None = None
    expected_tokens: Annotated[int, Field(ge=1, le=32768)] = 256


@router.post("/call", response_model=None)
async def call(body: JobCall, master: Master, request: Request) -> dict[str, Any] | Response:
    """Answer when the model has; hanging up ends the call in its engine. For `council jobs worker`."""
    job = await master.store.jobs.get(str(body.job_id))
    if job.state != "running" or job.owner != body.executor:
        raise ConflictError("this job is no longer run by that worker")
    asked = BackgroundCall(
        tuple(Message(one.role, one.content) for one in body.messages),
        body.model,
        body.format,
        body.options,
        body.think,
        body.prefix_key,
        body.expected_tokens,
    )
    try:
        with UntilHangUp(request.scope):
            return asdict(await master.jobs.call_for(job, body.executor, asked))
    except ClientGoneError:
        return Response(status_code=499)
