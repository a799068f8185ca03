"""`/api/council/sessions`: ask, list, fetch, cancel, retry, export, delete."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from common.errors import InvalidRequestError
from master.api.schemas import CreateSession
from master.council.export import markdown
from master.council.view import CouncilSession
from master.services import Master

router = APIRouter(prefix="/api/council/sessions", tags=["sessions"])


@router.post("", status_code=201, responses={202: {"model": CouncilSession}})
async def create_session(
    body: CreateSession,
    master: Master,
    response: Response,
    wait: bool = False,
    wait_s: Annotated[float, Query(ge=0, le=600)] = 30.0,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    traceparent: Annotated[str | None, Header()] = None,
) -> CouncilSession:
    """Ask the council. With `wait=true`: 201 with the ended session, else 202 and `Location`."""
    _runner, session = await master.council.create(
        body, idempotency_key=idempotency_key, traceparent=traceparent
    )
    response.headers["Location"] = f"/api/council/sessions/{session.id}"
    if not wait:
        return session
    if not await master.council.ended(session.id, wait_s):
        response.status_code = 202
    return await master.council.get(session.id)


@router.get("")
async def list_sessions(
    master: Master,
    q: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Newest first; `q` searches questions and answers; `next_cursor` fetches the next page."""
    sessions, next_cursor = await master.store.sessions.list(q=q, limit=limit, cursor=cursor)
    return {"sessions": sessions, "next_cursor": next_cursor}


@router.get("/{session_id}")
async def get_session(session_id: UUID, master: Master) -> CouncilSession:
    return await master.council.get(str(session_id))


@router.delete("/{session_id}", status_code=204)
async def delete_session(session_id: UUID, master: Master, with_archives: bool = False) -> None:
    """Delete a session for good; a running one is cancelled first.

    Archives that hold it stay, and say that it is gone; `with_archives=true` deletes them too.
    """
    await master.council.delete(str(session_id))
    await master.archives.origin_deleted(session_id=str(session_id), with_archives=with_archives)


@router.post("/{session_id}/cancel")
async def cancel_session(session_id: UUID, master: Master) -> CouncilSession:
    return await master.council.cancel(str(session_id))


@router.post("/{session_id}/agents/{agent_id}/retry", status_code=202)
async def retry_agent(session_id: UUID, agent_id: str, master: Master) -> CouncilSession:
    """Open another run for one agent (or `chairman`): what depends on its answer is done again."""
    return await master.council.retry(str(session_id), agent_id)


@router.get("/{session_id}/export")
async def export_session(session_id: UUID, master: Master, format: str = "md") -> Response:
    session = await master.council.get(str(session_id))
    name = f"council-{session_id}"
    if format == "md":
        return PlainTextResponse(
            markdown(session), media_type="text/markdown", headers=_attachment(f"{name}.md")
        )
    if format == "json":
        return JSONResponse(session.model_dump(mode="json"), headers=_attachment(f"{name}.json"))
    raise InvalidRequestError(f"no export as {format!r}; there are md and json")


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
