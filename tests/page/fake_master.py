"""A small real server that speaks the master's wire, with scripted sessions instead of models.

Start it by hand to look at the page: `python -m tests.page.fake_master 8010`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

import frontend
from tests.page.fake_background import FakeBackground
from tests.page.fake_council import FakeSession
from tests.page.script import Script

MODELS: list[dict[str, Any]] = [
    {
        "name": name,
        "size": size,
        "engine": "ollama",
        "resident": resident,
        "slots": 4,
        "capabilities": able,
        "nodes": nodes,
    }
    for name, size, resident, able, nodes in (
        ("llama3.2:1b", 1_321_098_329, True, ["completion"], ["pc1", "pc2"]),
        ("qwen2.5:0.5b", 397_821_319, True, ["completion"], ["pc1", "pc2", "pc3"]),
        ("gemma2:2b", 1_629_518_495, False, ["completion"], ["pc2"]),
        ("phi3.5", 2_176_178_843, True, ["completion"], ["pc3"]),
        ("nomic-embed-text", 274_302_450, False, ["embedding"], ["pc1"]),
    )
]
WORKERS = [
    {
        "name": name,
        "url": f"http://192.168.1.2{number}:8001",
        "state": state,
        "engines": ["ollama"],
        "slots": slots,
        "models": models,
    }
    for number, (name, state, slots, models) in enumerate(
        (
            ("pc1", "healthy", 4, ["llama3.2:1b", "qwen2.5:0.5b", "nomic-embed-text"]),
            ("pc2", "healthy", 4, ["llama3.2:1b", "qwen2.5:0.5b", "gemma2:2b"]),
            ("pc3", "degraded", 2, ["phi3.5", "qwen2.5:0.5b"]),
        )
    )
]


def problem(status: int, code: str, title: str, detail: str, **more: Any) -> Response:
    """An error in the master's form."""
    body = {
        "type": f"urn:council:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    } | more
    return JSONResponse(body, status, media_type="application/problem+json")


class FakeMaster:
    """Holds the sessions; a test sets `script` before it asks and reads `requests` afterwards."""

    def __init__(self) -> None:
        self.script = Script()
        self.models: list[dict[str, Any]] = MODELS
        self.refusal: Response | None = None
        self.background: dict[str, Any] | None = None
        self.work = FakeBackground()
        self.key: str | None = None
        self.sessions: dict[str, FakeSession] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.sockets: list[int] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, question: str, **fields: Any) -> FakeSession:
        """A session of the past, with no events to follow."""
        session = FakeSession({"question": question}, Script(), ["llama3.2:1b", "qwen2.5:0.5b"])
        session.data |= {"state": "completed", "result": "full"} | fields
        self.sessions[session.data["id"]] = session
        return session

    def _session(self, request: Request | WebSocket) -> FakeSession | None:
        return self.sessions.get(request.path_params["id"])

    async def page(self, request: Request) -> Response:
        path = request.url.path
        asset = frontend.find_asset(path)
        if asset is None:
            return problem(404, "not_found", "Not found", f"There is nothing at {path}.")
        headers = {
            **frontend.SECURITY_HEADERS,
            "Content-Security-Policy": frontend.content_security_policy(),
            "Cache-Control": frontend.cache_control(path),
        }
        return FileResponse(asset, media_type=frontend.MEDIA_TYPES[asset.suffix], headers=headers)

    async def listing(self, request: Request) -> Response:
        if self.key and request.cookies.get("council") != self.key:
            return problem(401, "key_required", "A key is required", "Sign in with the key of this master.")
        words = request.query_params.get("q", "").lower()
        found = [
            one.data for one in reversed(self.sessions.values()) if words in one.data["question"].lower()
        ]
        start = int(request.query_params.get("cursor", 0))
        end = start + int(request.query_params.get("limit", 30))
        return JSONResponse(
            {"sessions": found[start:end], "next_cursor": str(end) if end < len(found) else None}
        )

    async def ask(self, request: Request) -> Response:
        if self.refusal is not None:
            return self.refusal
        body = await request.json()
        self.bodies.append(body)
        session = FakeSession(body, self.script, [model["name"] for model in MODELS[:3]])
        self.sessions[session.data["id"]] = session
        self._start(session, session.run())
        return JSONResponse(session.data, 201)

    def _start(self, session: FakeSession, play: Any) -> None:
        self.tasks[session.data["id"]] = asyncio.create_task(play)

    async def one(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return problem(404, "session_not_found", "No such session", "It may have been deleted.")
        if request.method == "DELETE":
            del self.sessions[session.data["id"]]
            return Response(status_code=204)
        return JSONResponse(session.data)

    async def cancel(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        self.tasks[session.data["id"]].cancel()
        return JSONResponse(session.data, 202)

    async def retry(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        self._start(session, session.retry(request.path_params["agent"]))
        return JSONResponse(session.data, 202)

    async def export(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        return PlainTextResponse(f"# {session.data['question']}\n", media_type="text/markdown")

    async def conversation(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        turns = [one.data for one in self.sessions.values() if one.data["conversation_id"] == id_]
        return JSONResponse({"id": id_, "sessions": turns})

    async def cluster(self, request: Request) -> Response:
        if request.url.path.endswith("models"):
            return JSONResponse({"models": self.models})
        if request.url.path.endswith("workers"):
            return JSONResponse({"workers": WORKERS})
        if request.url.path.endswith("engine"):
            return JSONResponse(self.background)
        checks = {"engine": "connected", "database": "connected", "nodes": "3 of 3"}
        if self.background is not None:
            checks["background_engine"] = self.background["state"]
        return JSONResponse(
            {
                "status": "healthy",
                "role": "master",
                "protocol": 1,
                "name": "pc1",
                "version": "0.1.0",
                "uptime_s": 8130,
                "checks": checks,
            }
        )

    async def login(self, request: Request) -> Response:
        if (await request.json()).get("key") != self.key:
            return problem(401, "wrong_key", "That is not the key", "Check it and try again.")
        answer = Response(status_code=204)
        answer.set_cookie("council", self.key or "", httponly=True, samesite="strict")
        return answer

    async def watch(self, socket: WebSocket) -> None:
        """The event socket: what the client has not seen, then what comes, then a close with 1000."""
        session = self._session(socket)
        if session is None:
            await socket.accept()
            await socket.send_json({"type": "error", "error": {"title": "No such session"}})
            await socket.close(1008)
            return
        await socket.accept()
        after = int(socket.query_params.get("after", 0))
        self.sockets.append(after)
        try:
            if after > len(session.events):
                await socket.send_json(session.snapshot())
                after = len(session.events)
            while True:
                async with session.changed:
                    while len(session.events) <= after and not session.ended:
                        await session.changed.wait()
                    fresh = session.events[after:]
                for event in fresh:
                    await socket.send_json(event)
                    after = event["seq"]
                    if after in session.drops:
                        session.drops.remove(after)
                        await socket.close(1012)
                        return
                if session.ended and after == len(session.events):
                    await socket.close(1000)
                    return
        except WebSocketDisconnect:
            return

    def app(self) -> ASGIApp:
        """The whole server: the page, REST and the socket."""
        session = "/api/council/sessions/{id}"
        app = Starlette(
            routes=[
                Route("/api/council/sessions", self.listing, methods=["GET"]),
                Route("/api/council/sessions", self.ask, methods=["POST"]),
                Route("/api/council/models", self.cluster),
                Route("/api/cluster/workers", self.cluster),
                Route("/health", self.cluster),
                Route("/api/background/engine", self.cluster),
                *self.work.routes(),
                Route("/api/login", self.login, methods=["POST"]),
                Route("/api/conversations/{id}", self.conversation),
                WebSocketRoute(f"{session}/events", self.watch),
                Route(f"{session}/cancel", self.cancel, methods=["POST"]),
                Route(f"{session}/agents/{{agent}}/retry", self.retry, methods=["POST"]),
                Route(f"{session}/export", self.export),
                Route(session, self.one, methods=["GET", "DELETE"]),
                Route("/{path:path}", self.page),
            ]
        )

        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                self.requests.append((scope["method"], scope["path"]))
            await app(scope, receive, send)

        return recorded


@asynccontextmanager
async def running(fake: FakeMaster, port: int = 0) -> AsyncIterator[str]:
    """Serve on a free port of the loopback address; the address comes out."""
    # No logging of its own: what it sets up would stay in this process, for the tests that come after.
    config = uvicorn.Config(
        fake.app(), host="127.0.0.1", port=port, log_config=None, lifespan="off", ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 uvicorn offers no event to wait for
        await asyncio.sleep(0.01)
    bound = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{bound}"
    finally:
        for task in fake.tasks.values():
            task.cancel()
        server.should_exit = True
        server.force_exit = True
        await serving


async def _by_hand(port: int) -> None:
    fake = FakeMaster()
    fake.script.pause_s = 0.05
    async with running(fake, port) as address:
        sys.stdout.write(f"{address}\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_by_hand(int(sys.argv[1]) if len(sys.argv) > 1 else 8010))
