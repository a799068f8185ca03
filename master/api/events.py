"""The events of one session, over WebSocket and over SSE: two shells around one log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from fastapi import APIRouter, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import Response, StreamingResponse
from starlette.types import Scope

from common.errors import CouncilError, InvalidRequestError, NodeDrainingError, NotAcceptableError
from master.api.guard import key_of
from master.council.events import TooSlowError
from master.services import Services

router = APIRouter(prefix="/api/council/sessions", tags=["events"])

Events = AsyncIterator[tuple[int, bytes]]
_SEND_TIMEOUT_S = 20.0
_KEEP_ALIVE_S = 15.0


@router.websocket("/{session_id}/events")
async def watch_by_socket(socket: WebSocket, session_id: UUID, after: int = Query(0, ge=0)) -> None:
    """Every event after a number, then 1000; 1013 for a socket too slow to follow, 1012 where we stop, 1008
    once its key is revoked.
    """
    services: Services = socket.app.state.services
    await socket.accept()
    events = services.masters.watch(
        str(session_id), after, here=services.masters.has_passed_on(socket.headers)
    )
    sender = asyncio.create_task(_send_all(socket, events))
    reader = asyncio.create_task(_until_closed(socket))
    revoked = asyncio.create_task(_until_revoked(services, socket.scope))
    tasks = (sender, reader, revoked)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        is_revoked = revoked.done() and not sender.done() and not reader.done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if is_revoked:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await socket.close(1008, "this key was revoked")


async def _until_revoked(services: Services, scope: Scope) -> None:
    """Return once the key that opened this is worthless; without one, never."""
    key = key_of(scope)
    if key is None:
        await asyncio.Event().wait()
    else:
        await services.keyring.revoked(key)


async def _send_all(socket: WebSocket, events: Events) -> None:
    try:
        async for _, data in events:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await socket.send_text(data.decode())
        await socket.close(1000)
    except (TooSlowError, TimeoutError):
        await socket.close(1013, "too slow to follow; reconnect with ?after=")
    except NodeDrainingError as error:
        await socket.close(1012, error.detail)
    except CouncilError as error:
        await socket.send_json({"type": "error", "error": error.to_problem()})
        await socket.close(1008 if error.status == 404 else 1011, error.title)
    except (WebSocketDisconnect, RuntimeError):  # Starlette's words for a peer that has gone
        return


async def _until_closed(socket: WebSocket) -> None:
    """What a watcher sends is read and ignored; this ends when it closes."""
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
    except (WebSocketDisconnect, RuntimeError):
        return


@router.get("/{session_id}/events")
async def watch_by_sse(request: Request, session_id: UUID, after: int = Query(0, ge=0)) -> Response:
    """The same events as server-sent ones; `Last-Event-ID` resumes; 204 when nothing will follow. It ends
    once its key is revoked.
    """
    if "text/event-stream" not in request.headers.get("accept", ""):
        raise NotAcceptableError("ask with `Accept: text/event-stream`, or open this address as a WebSocket")
    last_id = request.headers.get("last-event-id")
    if last_id is not None:
        if not last_id.isdigit():
            raise InvalidRequestError("Last-Event-ID is the `seq` of the last event that was read")
        after = int(last_id)
    services: Services = request.app.state.services
    here = services.masters.has_passed_on(request.headers)
    if await services.masters.is_past_end(str(session_id), after, here=here):
        return Response(status_code=204)
    events = services.masters.watch(str(session_id), after, here=here)
    return StreamingResponse(
        _as_sse(events, services, request.scope),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _as_sse(events: Events, services: Services, scope: Scope) -> AsyncIterator[bytes]:
    pending: asyncio.Task[tuple[int, bytes]] | None = None
    revoked = asyncio.create_task(_until_revoked(services, scope))
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            await asyncio.wait((pending, revoked), timeout=_KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if revoked.done():
                return
            if not pending.done():
                yield b": still here\n\n"
                continue
            seq, data = pending.result()
            pending = None
            yield b"id: %d\ndata: %b\n\n" % (seq, data)
    except (StopAsyncIteration, TooSlowError, CouncilError):
        return
    finally:
        tasks = (revoked,) if pending is None else (revoked, pending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
