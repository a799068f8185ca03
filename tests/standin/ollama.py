"""The stand-in server: its life, its routes, and what a test in the same process asks of it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from tests.standin import control, routes_embed, routes_generate, routes_models
from tests.standin.channel import drop
from tests.standin.early_faults import on_simple_route
from tests.standin.engine import Engine, loop_ms
from tests.standin.faults import Fault, Faults
from tests.standin.journal import RUNNING, CallRecord, Counters, Journal
from tests.standin.model import StandInModel
from tests.standin.scheduler import Scheduler
from tests.standin.wire import JSON, JSON_BARE, TEXT, Refusal, go_json, lookup_key, parse_body

GetRoute = Callable[[Engine], Awaitable[web.StreamResponse]]
PostRoute = Callable[[Engine, web.BaseRequest, dict[str, Any], CallRecord], Awaitable[web.StreamResponse]]

GETS: dict[str, tuple[str, GetRoute]] = {
    "/": ("root", routes_models.root),
    "/api/version": ("version", routes_models.version),
    "/api/status": ("version", routes_models.status),
    "/api/tags": ("tags", routes_models.tags),
    "/api/ps": ("ps", routes_models.ps),
    "/v1/models": ("models", routes_models.openai_models),
}
POSTS: dict[tuple[str, str], tuple[str, str, PostRoute]] = {
    ("POST", "/api/chat"): ("chat", "ollama", routes_generate.chat),
    ("POST", "/api/generate"): ("generate", "ollama", routes_generate.generate),
    ("POST", "/v1/chat/completions"): ("chat", "openai", routes_generate.openai_chat),
    ("POST", "/api/embed"): ("embed", "ollama", routes_embed.embed),
    ("POST", "/api/embeddings"): ("embed", "ollama", routes_embed.embeddings),
    ("POST", "/v1/embeddings"): ("embed", "openai", routes_embed.openai_embeddings),
    ("POST", "/api/show"): ("show", "ollama", routes_models.show),
    ("POST", "/api/pull"): ("pull", "ollama", routes_models.pull),
    ("DELETE", "/api/delete"): ("delete", "ollama", routes_models.delete),
}
_PATHS = frozenset(GETS) | {path for _, path in POSTS}
_HEADABLE = frozenset({"/", "/api/version", "/api/tags"})
_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


class StandInOllama:
    """A scriptable Ollama on a real socket. `async with StandInOllama(["m"]) as server: server.base_url`.

    `slots` are per loaded model, `max_loaded` models at a time, `max_queue` waiting loads. `registry` holds
    models that can be pulled but are not installed; `pull_ms` is what a pull takes. `shared_speed` is the
    fraction by which each further running generation lengthens every token's time (0: independent slots).
    """

    def __init__(
        self,
        models: Iterable[StandInModel | str] = (),
        *,
        slots: int = 1,
        max_loaded: int = 3,
        max_queue: int = 512,
        context_length: int = 4096,
        keep_alive_s: float = 300.0,
        faults: Iterable[Fault] = (),
        registry: Iterable[StandInModel | str] = (),
        pull_ms: float = 0.0,
        shared_speed: float = 0.0,
        version: str = "0.33.0",
        host: str = "127.0.0.1",
        port: int = 0,
        log_limit: int = 20_000,
    ) -> None:
        journal = Journal(log_limit)
        scheduler = Scheduler(journal, slots=slots, max_loaded=max_loaded, max_queue=max_queue)
        self._models = [_model(model) for model in models]
        self._engine = Engine(
            journal=journal,
            faults=Faults(faults),
            scheduler=scheduler,
            version=version,
            context_length=context_length,
            default_keep_alive_s=keep_alive_s,
            shared_speed=shared_speed,
            pull_ms=pull_ms,
            registry={lookup_key(model.name): model for model in map(_model, registry)},
        )
        self._host = host
        self._port = port
        self._allowed_hosts: set[str] = set()
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._loader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> StandInOllama:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; `base_url` is known when it returns."""
        loop = asyncio.get_running_loop()
        self._engine.install_all(self._models)
        self._web = web.Server(
            self._handle,
            request_factory=_request_factory(loop),
            handler_cancellation=True,
            access_log=None,
        )
        self._loader = loop.create_task(self._engine.scheduler.run())
        await self.resume_accepting()

    async def stop(self) -> None:
        """Drop all connections and leave nothing behind."""
        await self.stop_accepting()
        self.drop_all_connections()
        if self._web is not None:
            await self._web.shutdown(0.5)
        if self._loader is not None:
            self._loader.cancel()
            await asyncio.gather(self._loader, return_exceptions=True)
        for runner in self._engine.scheduler.runners:
            self._engine.scheduler.kill(runner.model.name)

    @property
    def base_url(self) -> str:
        """Without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def log(self) -> list[CallRecord]:
        """Every request but GETs and control, oldest first."""
        return list(self._engine.journal.records)

    @property
    def counters(self) -> Counters:
        return self._engine.journal.counters

    @property
    def scheduler(self) -> Scheduler:
        """For a look at loaded models and the queue."""
        return self._engine.scheduler

    @property
    def loaded(self) -> list[str]:
        """Names of the models that are ready."""
        return [runner.model.name for runner in self._engine.scheduler.runners]

    @property
    def pending_faults(self) -> list[Fault]:
        return self._engine.faults.waiting

    def calls(
        self, *, model: str | None = None, kind: str | None = None, outcome: str | None = None
    ) -> list[CallRecord]:
        """The records that match all that is given."""
        return [
            record
            for record in self._engine.journal.records
            if (model is None or lookup_key(record.model) == lookup_key(model))
            and (kind is None or record.kind == kind)
            and (outcome is None or record.outcome == outcome)
        ]

    def add_faults(self, *faults: Fault) -> None:
        self._engine.faults.add(*faults)

    def set_model(self, model: StandInModel | str) -> None:
        """Install a model, or replace the one of that name; calls that run go on as they began."""
        self._engine.install(_model(model))

    def unload(self, name: str) -> None:
        """Unload when its calls have ended."""
        self._engine.scheduler.unload(name)

    def reset(self) -> None:
        """Forget the log, the counters, the faults and how many replies were given; loaded models stay."""
        self._engine.journal.reset()
        self._engine.faults.clear()
        for installed in self._engine.installed.values():
            installed.generations = 0

    async def until(self, predicate: Callable[[StandInOllama], object], timeout_s: float = 30.0) -> None:
        """Return once `predicate(self)` is true; it is asked after each change of the log or the counters."""
        await self._engine.journal.until(lambda: predicate(self), timeout_s)

    async def stop_accepting(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)

    async def resume_accepting(self) -> None:
        """Listen again, on the same port."""
        if self._listener is None and self._web is not None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._web, self._host, self._port, backlog=1024)
            self._port = self._listener.sockets[0].getsockname()[1]

    def drop_all_connections(self, *, but: web.BaseRequest | None = None) -> int:
        """Abort all connections (`but` that of a request) and return how many; running calls end as "cut"."""
        if self._web is None:
            return 0
        for record in self._engine.journal.records:
            if record.outcome == RUNNING:
                self._engine.journal.close(record, "cut", loop_ms())
        dropped = 0
        for connection in self._web.connections:
            if connection.transport is not None and (but is None or connection is not but.protocol):
                drop(connection.transport)
                dropped += 1
        return dropped

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, method = request.path, request.method
        if path.startswith(control.PREFIX):
            return await control.answer(self, request)
        if not self._host_allowed(request):
            return web.Response(status=403, headers={"Content-Type": TEXT})
        found = POSTS.get((method, path))
        if found is not None:
            return await self._post(request, *found)
        if path in GETS and (method == "GET" or (method == "HEAD" and path in _HEADABLE)):
            return await self._get(request, *GETS[path])
        if path in _PATHS:
            return web.Response(status=405, body=b"405 method not allowed", headers={"Content-Type": TEXT})
        return web.Response(status=404, body=b"404 page not found", headers={"Content-Type": TEXT})

    async def _get(self, request: web.BaseRequest, endpoint: str, route: GetRoute) -> web.StreamResponse:
        try:
            await on_simple_route(request, self._engine.faults.take("", endpoint, False))
            return await route(self._engine)
        except Refusal as refusal:
            return _refused(refusal, "ollama", False)

    async def _post(
        self, request: web.BaseRequest, kind: str, dialect: str, route: PostRoute
    ) -> web.StreamResponse:
        journal = self._engine.journal
        record = journal.open(kind, dialect, "", loop_ms())
        body: dict[str, Any] = {}
        try:
            body = parse_body(await request.read())
            record.model = str(body.get("model") or body.get("name") or "")
            if kind in ("show", "pull"):
                await on_simple_route(request, self._engine.faults.take(record.model, kind, False))
            response = await route(self._engine, request, body, record)
            record.status = response.status
            journal.close(record, "done", loop_ms())
            return response
        except Refusal as refusal:
            record.status, record.error = refusal.status, refusal.text
            journal.close(record, "error", loop_ms())
            streamed = body.get("stream") is not False if dialect == "ollama" else bool(body.get("stream"))
            return _refused(refusal, dialect, streamed)
        except (asyncio.CancelledError, ConnectionError):
            journal.close(record, "cancelled", loop_ms())
            raise
        except Exception as error:
            record.status, record.error = 500, f"the stand-in itself failed: {error!r}"
            journal.close(record, "error", loop_ms())
            raise

    def _host_allowed(self, request: web.BaseRequest) -> bool:
        """Ollama's check against DNS rebinding, and its CORS check."""
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin")
        if origin is not None and not _is_local(urlsplit(origin).hostname or ""):
            return False
        if host in self._allowed_hosts:
            return True
        if not _is_local(urlsplit(f"//{host}").hostname or ""):
            return False
        self._allowed_hosts.add(host)
        return True


def _model(model: StandInModel | str) -> StandInModel:
    return StandInModel(model) if isinstance(model, str) else model


def _is_local(name: str) -> bool:
    if name in ("", "localhost", socket.gethostname().lower()):
        return True
    if name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def _refused(refusal: Refusal, dialect: str, streamed: bool) -> web.Response:
    if dialect == "openai":
        kind = _OPENAI_TYPES.get(refusal.status, "api_error")
        error = {"message": refusal.text, "type": kind, "param": None, "code": None}
        return web.Response(
            status=refusal.status, body=go_json({"error": error}), headers={"Content-Type": JSON_BARE}
        )
    content_type = JSON_BARE if refusal.by_engine and streamed else JSON
    return web.Response(
        status=refusal.status, body=go_json({"error": refusal.text}), headers={"Content-Type": content_type}
    )


def _request_factory(loop: asyncio.AbstractEventLoop) -> Any:
    """Requests without a limit of their bodies' size."""
    return partial(_request, loop)


def _request(
    loop: asyncio.AbstractEventLoop, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
) -> web.BaseRequest:
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=0)
