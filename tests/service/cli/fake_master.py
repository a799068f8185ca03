"""A small real server that speaks the master's wire and plays scripts instead of asking models."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.service.cli.fake_council import FakeSession, Script

KEY = "lc_a-key-for-tests-only"
MODELS = [
    {"name": "llama3.2:1b", "size": 1_321_098_329, "engine": "main", "resident": True, "slots": 5,
     "capabilities": ["completion"], "nodes": ["pc1", "pc2"], "practice": False},
    {"name": "phi3.5", "size": 2_176_178_843, "engine": "main", "resident": False, "slots": 5,
     "capabilities": ["completion"], "nodes": ["pc2"], "practice": False},
]  # fmt: skip


class FakeMaster:
    """The server's state. Tests set `script` before they ask and read what was asked afterwards."""

    def __init__(self, *, key: str | None = None, role: str = "master") -> None:
        self.key = key
        self.role = role
        self.script = Script()
        self.sessions: dict[str, FakeSession] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.offered = MODELS
        self.starting: list[str] = []
        self.pulled: list[dict[str, Any]] = []
        self.pull_lines: list[dict[str, Any]] | None = None
        self.added: list[dict[str, Any]] = []
        self.cancels = 0
        self.connects = 0
        self.url = ""
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.started = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def app(self) -> Starlette:
        sessions = "/api/council/sessions"
        return Starlette(
            lifespan=self._lifespan,
            routes=[
                Route("/health", self.health),
                Route("/health/ollama", self.engines),
                Route(sessions, self.create, methods=["POST"]),
                Route(sessions, self.list_sessions),
                Route(f"{sessions}/{{id}}", self.session, methods=["GET", "DELETE"]),
                Route(f"{sessions}/{{id}}/cancel", self.cancel, methods=["POST"]),
                Route(f"{sessions}/{{id}}/export", self.export),
                WebSocketRoute(f"{sessions}/{{id}}/events", self.events),
                Route("/api/council/models", self.models),
                Route("/api/council/models/recommended", self.recommended),
                Route("/api/council/models/pull", self.pull, methods=["POST"]),
                Route("/api/cluster/workers", self.cluster, methods=["GET", "POST"]),
                Route("/api/cluster/workers/{name}", self.worker, methods=["GET", "DELETE"]),
            ],
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _refused(self, request: Request | WebSocket) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return problem(401, "unauthorized", "a key is required")
        return None

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "healthy", "role": self.role, "protocol": 1, "name": "pc1",
                             "version": "0.1.0", "uptime_s": 1.0, "checks": {}})  # fmt: skip

    async def engines(self, _request: Request) -> Response:
        return JSONResponse({"engines": []})

    async def create(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if self.refusal is not None:
            return problem(self.refusal[0], **self.refusal[1])
        session = FakeSession(await request.json(), self.script)
        self.sessions[session.data["id"]] = session
        task = asyncio.create_task(session.run())
        self._tasks.add(task)
        self.started.set()
        return JSONResponse(session.data, 201)

    async def list_sessions(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        word = request.query_params.get("q", "")
        found = [one.data for one in self.sessions.values() if word in one.data["question"]]
        return JSONResponse({"sessions": found, "next_cursor": None})

    async def session(self, request: Request) -> Response:
        session = self.sessions.get(request.path_params["id"])
        if session is None:
            return problem(404, "not_found", "no such session")
        if request.method == "DELETE":
            del self.sessions[request.path_params["id"]]
            return Response(status_code=204)
        return JSONResponse(session.data)

    async def cancel(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        self.cancels += 1
        if not self.script.ignore_cancel:
            session.cancelled.set()
        return JSONResponse(session.data)

    async def export(self, request: Request) -> Response:
        session = self.sessions.get(request.path_params["id"])
        if session is None:
            return problem(404, "not_found", "no such session")
        if request.query_params.get("format") == "json":
            return JSONResponse(session.data)
        return PlainTextResponse(f"# {session.data['question']}\n", media_type="text/markdown")

    async def events(self, socket: WebSocket) -> None:
        self.connects += 1
        await socket.accept()
        session = self.sessions[socket.path_params["id"]]
        sent = int(socket.query_params.get("after") or 0)
        if sent and session.script.cut_reconnects:
            session.script.cut_reconnects -= 1
            await socket.close(1012)
            return
        if sent and session.script.snapshot_on_reconnect:
            await socket.send_json(session.snapshot())
            sent = len(session.events)
        while True:
            async with session.changed:
                while len(session.events) == sent and not session.ended:
                    await session.changed.wait()
            if len(session.events) == sent:
                break
            event = session.events[sent]
            sent += 1
            if sent not in session.script.leave_out:
                await socket.send_json(event)
            if sent in session.script.drop_at:
                session.script.drop_at.discard(sent)
                await socket.close(1012)
                return
        await socket.close(1000)

    async def models(self, _request: Request) -> Response:
        return JSONResponse({"models": self.offered})

    async def recommended(self, _request: Request) -> Response:
        return JSONResponse({"models": [{"name": "llama3.2:1b", "size": 1_300_000_000, "role": "agent"}]})

    async def pull(self, request: Request) -> Response:
        self.pulled.append(body := await request.json())
        lines: list[dict[str, Any]] = [{"status": "pulling", "completed": 1, "total": 2}] * 3
        if self.pull_lines is not None:
            lines = self.pull_lines
        elif body["model"] == "nonesuch":
            lines.append({"error": {"code": "model_not_found", "detail": "no such model"}})
        else:
            lines.append({"status": "success"})
        return PlainTextResponse("".join(json.dumps(line) + "\n" for line in lines))

    async def cluster(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if request.method == "GET":
            return JSONResponse({"workers": list(self.workers.values()), "starting": self.starting})
        self.added.append(body := await request.json())
        name = body.get("name") or "pc2"
        if name in self.workers:
            return problem(409, "conflict", f"a node called {name} is there already")
        self.workers[name] = {"name": name, "url": body["url"], "state": "healthy", "slots": 5,
                              "engines": ["main"], "models": ["llama3.2:1b"]}  # fmt: skip
        return JSONResponse(self.workers[name], 201)

    async def worker(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.workers:
            return problem(404, "not_found", f"no node is called {name}")
        if request.method == "DELETE":
            del self.workers[name]
            return Response(status_code=204)
        return JSONResponse(self.workers[name])


def problem(status: int, code: str, detail: str) -> Response:
    return JSONResponse(
        {
            "type": f"urn:lan-council:error:{code}",
            "title": code,
            "status": status,
            "detail": detail,
            "code": code,
        },
        status,
        media_type="application/problem+json",
    )


@contextmanager
def serving(master: FakeMaster, *, port: int = 0) -> Iterator[FakeMaster]:
    """Serve in a thread until the block ends; `master.url` is set."""
    server = uvicorn.Server(
        # No logging of its own: what it sets up would stay in this process, for the tests that come after.
        uvicorn.Config(master.app(), port=port, log_config=None, ws="websockets-sansio")
    )
    ready = threading.Event()
    original = server.startup

    async def startup(sockets: Any = None) -> None:
        await original(sockets)
        ready.set()

    server.startup = startup  # type: ignore[method-assign]  # uvicorn has no hook for "serving now"
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(10)
        port = server.servers[0].sockets[0].getsockname()[1]
        master.url = f"http://127.0.0.1:{port}"
        yield master
    finally:
        server.should_exit = True
        server.force_exit = True  # a session that is held for good is let go
        thread.join(20)
        assert not thread.is_alive()
