"""What every token passes: end points taken before FastAPI's layers, behind the same guard as all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from common.asgi import App, Receive, Scope, Send


class DirectRoutes:
    """What the server calls. A POST to one of these paths goes to its end point, everything else to `app`.

    An end point turns its own errors into answers. `guarded` are those end points as `app` would serve them:
    behind the same middleware where that has a say.
    """

    def __init__(self, app: FastAPI, guarded: Mapping[str, App]) -> None:
        self._app: Any = app
        self._guarded = dict(guarded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end_point = self._guarded.get(scope.get("path", ""))
        if end_point is None or scope.get("method") != "POST":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        await end_point(scope, receive, send)
