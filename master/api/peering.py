"""Requests for a session that another master has go there, behind this master's own guard."""

from __future__ import annotations

import re
from uuid import UUID

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import CouncilError, NodeUnreachableError, NotFoundError
from master.api.problems import problem_response
from master.masters import TRANSPORT_ERRORS
from master.services import Services

# Every route of one session, and nothing that only begins like one: it is asked in the name of the cluster.
# Events are followed by their own routes, through a master's death.
_SESSION = re.compile(r"/api/council/sessions/([^/]+)(/cancel|/export|/agents/[A-Za-z0-9_]+/retry)?")
_PASSED_ON = ("content-type", "accept", "idempotency-key", "traceparent")
_PASSED_BACK = ("content-type", "location", "retry-after", "content-disposition")


class Peering:
    """Pure ASGI. Costs a look at the path where there are no other masters."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _session_in(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        masters = services.masters
        if masters.presence is None or masters.has_passed_on(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        try:
            response = await _elsewhere(services, *found, Request(scope, receive))
        except CouncilError as error:
            response = problem_response(error)
        if response is None:
            await self._app(scope, receive, send)
        else:
            await response(scope, receive, send)


def _session_in(path: str) -> tuple[str, str] | None:
    """A session's id, and what behind it is asked for; `None` where no route of a session is meant."""
    found = _SESSION.fullmatch(path)
    if found is None:
        return None
    try:
        return str(UUID(found[1])), found[2] or ""
    except ValueError:
        return None


async def _elsewhere(services: Services, session_id: str, rest: str, request: Request) -> Response | None:
    """The answer of the master that has the session; `None`: it is answered here."""
    masters = services.masters
    try:
        peer = await masters.owner(session_id)
    except NotFoundError:
        return None  # the route says it in its own words
    if peer is None:
        return None
    body = await request.body()
    headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
    address = httpx.URL(f"/api/council/sessions/{session_id}{rest}", query=request.url.query.encode())
    try:
        answer = await masters.client(peer).request(request.method, address, content=body, headers=headers)
    except TRANSPORT_ERRORS as error:
        if request.method in ("GET", "HEAD"):
            return None  # its rows say how far it is
        raise NodeUnreachableError(
            f"the master {peer.name}, which has this session, does not answer; try again in a moment",
            node=peer.name,
            retry_after_s=2.0,
        ) from error
    kept = {name: value for name, value in answer.headers.items() if name in _PASSED_BACK}
    return Response(answer.content, answer.status_code, headers=kept)
