"""The page: static files of `frontend/` under a strict policy, and the log-in for its cookie."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import frontend
from common.errors import NotFoundError
from master.api.guard import COOKIE, Access, peer
from master.api.permission import Need
from master.api.schemas import Login
from master.services import Master

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.get("/assets/{path:path}")
async def asset(request: Request) -> Response:
    """One file of the page; its type is ours to set, since registries of Windows differ."""
    path = request.url.path
    file = frontend.find_asset(path)
    if file is None:
        raise NotFoundError(f"the page has no file {path}")
    return FileResponse(
        file,
        media_type=frontend.MEDIA_TYPES[file.suffix],
        headers={"Cache-Control": frontend.cache_control(path)},
    )


@router.post("/api/login", status_code=204)
async def login(body: Login, request: Request, response: Response, master: Master) -> None:
    """Trade the key for a cookie that scripts cannot read."""
    access: Access = request.app.state.access
    if access.asks:
        await access.admit(Need.PERSON, body.key, peer(request.scope), master.keyring)
    response.set_cookie(
        COOKIE,
        body.key,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        max_age=30 * 24 * 3600,
    )


class PageHeaders:
    """Pure ASGI: the security headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        policy = {**frontend.SECURITY_HEADERS, "Content-Security-Policy": frontend.content_security_policy()}
        self._headers = [(name.lower().encode(), value.encode()) for name, value in policy.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, with_headers)
