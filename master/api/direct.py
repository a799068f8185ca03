"""What every token passes: end points taken before FastAPI's layers, behind the same guard as all others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

EndPoint = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")


class DirectRoutes:
    """Pure ASGI, the innermost middleware: a POST to one of these paths skips routing and dependencies.

    An end point turns its own errors into answers; what it does not expect is `problems`' to tell.
    """

    def __init__(self, app: ASGIApp, end_points: Mapping[str, EndPoint]) -> None:
        self._app = app
        self._end_points = dict(end_points)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end_point = self._end_points.get(scope.get("path", ""))
        if end_point is None or scope.get("method") != "POST":
            await self._app(scope, receive, send)
            return
        response = await end_point(Request(scope, receive))
        await response(scope, receive, send)


async def unless_hung_up(work: Awaitable[T], request: Request) -> T | None:
    """Await the work in this task, and cancel it when the client hangs up: `None`."""
    owner = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            continue
        gone = True
        if owner is not None:
            owner.cancel()

    watching = asyncio.create_task(watch())
    try:
        try:
            return await work
        finally:
            watching.cancel()
            await asyncio.wait((watching,))
    except asyncio.CancelledError:
        if not gone or owner is None:
            raise
        owner.uncancel()
        return None
