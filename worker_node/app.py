"""The node's HTTP face: raw ASGI for the calls, FastAPI for the rest, one gate before both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from common.asgi import App, ClientGoneError, Receive, Scope, Send, UntilHangUp, read_body
from common.errors import PROBLEM_MEDIA_TYPE, CancelledCallError, CouncilError, InternalError, NotFoundError
from common.logs import get_logger
from common.protocol import (
    NDJSON_MEDIA_TYPE,
    EmbedRequest,
    Health,
    HealthStatus,
    ModelRequest,
    encoder,
)
from worker_node.asgi import Gatekeeper, decode_body
from worker_node.engines.base import PullProgress
from worker_node.generate_route import GenerateRoute
from worker_node.membership import Belonging
from worker_node.service import NodeService

log = get_logger(__name__)

PROTOCOL = 1
BODY_LIMIT = 8 * 1024 * 1024


class PullRequest(ModelRequest, frozen=True, kw_only=True):
    """`stream`: progress as NDJSON instead of one object at the end."""

    stream: bool = False


_embed_decoder = msgspec.json.Decoder(EmbedRequest)
_model_decoder = msgspec.json.Decoder(ModelRequest)
_pull_decoder = msgspec.json.Decoder(PullRequest)


def create_app(
    service: NodeService,
    *,
    keys: Callable[[], Sequence[str]] | None,
    loopback_only: bool,
    data_dir: Path,
    belonging: Belonging,
    exclusive: Sequence[str] = (),
) -> App:
    """The ASGI application. `keys` and `loopback_only`: see `Gatekeeper`. `exclusive`: programs for which
    background work makes way; the node tells which of them run.
    """
    calls = GenerateRoute(service)
    hot = {"/api/generate": calls.generate, "/api/generate/batch": calls.batch}
    rest = _fastapi(service, data_dir, exclusive, belonging)

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (end_point := hot.get(scope["path"])):
            await end_point(scope, receive, send)
        else:
            await rest(scope, receive, send)

    return Gatekeeper(route, keys=keys, loopback_only=loopback_only, heard=belonging.hear)


@cache
def program_version() -> str:
    try:
        return version("lan-council")
    except PackageNotFoundError:
        return "0"


def _json(content: Any, status: int = 200) -> Response:
    return Response(encoder.encode(content), status_code=status, media_type="application/json")


def _problem(error: CouncilError) -> Response:
    return Response(
        encoder.encode(error.to_problem()),
        status_code=error.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=error.headers,
    )


def _fastapi(service: NodeService, data_dir: Path, exclusive: Sequence[str], belonging: Belonging) -> FastAPI:
    # No documentation page: it would load its scripts from another host.
    app = FastAPI(title="lan-council worker node", version=program_version(), docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_health(app, service, data_dir, exclusive, belonging)
    _add_models(app, service)

    @app.post("/api/membership/end")
    async def removed() -> Response:
        """By the master, while it removes this node."""
        await belonging.end()
        return _json({"status": "removed" if belonging.ended else "no member"})

    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(CouncilError)
    async def council_error(_request: Request, error: CouncilError) -> Response:
        return _problem(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        problem = NotFoundError(f"no route {request.method} {request.url.path}").to_problem()
        problem["status"] = error.status_code
        return Response(
            encoder.encode(problem),
            status_code=error.status_code,
            media_type=PROBLEM_MEDIA_TYPE,
            headers=error.headers,
        )

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> Response:
        return _problem(InternalError("the node failed; its log has the details"))


def _add_health(
    app: FastAPI, service: NodeService, data_dir: Path, exclusive: Sequence[str], belonging: Belonging
) -> None:
    @app.get("/health")
    async def health() -> Response:
        checks: dict[str, str] = {}
        for info in await service.engine_infos():
            checks["engine" if info.name == "main" else f"{info.name}_engine"] = info.status
        checks["admission"] = "draining" if service.draining else "open"
        status: HealthStatus = "healthy"
        if service.draining or checks.get("engine") != "connected":
            status = "unhealthy"
        elif "disconnected" in checks.values() or belonging.ended is not None:
            status = "degraded"
        if belonging.ended is not None:
            checks["membership"] = belonging.ended
        answer = Health(
            status=status,
            role="worker",
            protocol=PROTOCOL,
            name=service.name,
            version=program_version(),
            uptime_s=round(time.monotonic() - service.started_at, 1),
            checks=checks,
        )
        return _json(answer, 503 if status == "unhealthy" else 200)

    @app.get("/health/system")
    async def health_system() -> Response:
        # Late, because an idle node that nobody asks needs no psutil.
        from common.host import network_cards, system_health
        from worker_node.gpus import gpus

        def look() -> dict[str, Any]:
            engines = {str(name): lane.engine.process_ids() for name, lane in service.lanes.items()}
            return {**system_health(data_dir, engines, exclusive), "gpus": gpus(), "network": network_cards()}

        return _json(await asyncio.to_thread(look))

    @app.get("/health/ollama")
    async def health_ollama() -> Response:
        return _json({"engines": await service.engine_infos()})

    @app.get("/health/models")
    async def health_models() -> Response:
        listed = await service.models()
        models = [one for of_engine in listed.values() for one in of_engine]
        return _json({"models": models, "max_loaded": service.max_loaded, "listed": list(listed)})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_models(app: FastAPI, service: NodeService) -> None:
    async def body_of(request: Request, decoder: msgspec.json.Decoder[Any]) -> Any:
        return decode_body(decoder, await read_body(request.receive, BODY_LIMIT))

    @app.post("/api/embed")
    async def embed(request: Request) -> Response:
        try:
            wanted: EmbedRequest = await body_of(request, _embed_decoder)
            with UntilHangUp(request.scope):
                embedded = await service.embed(wanted)
        except ClientGoneError:
            return Response(status_code=CancelledCallError.status)  # nobody reads it
        return _json(embedded)

    @app.post("/api/models/load")
    async def load(request: Request) -> Response:
        wanted: ModelRequest = await body_of(request, _model_decoder)
        load_ms = await service.load(wanted.engine, wanted.model)
        return _json({"model": wanted.model, "status": "loaded", "load_ms": load_ms})

    @app.post("/api/models/unload")
    async def unload(request: Request) -> Response:
        wanted: ModelRequest = await body_of(request, _model_decoder)
        await service.unload(wanted.engine, wanted.model)
        return _json({"model": wanted.model, "status": "unloaded"})

    @app.post("/api/models/pull")
    async def pull(request: Request) -> Response:
        wanted: PullRequest = await body_of(request, _pull_decoder)
        if wanted.stream:
            return StreamingResponse(_pull_lines(service, wanted), media_type=NDJSON_MEDIA_TYPE)
        async with aclosing(service.pull(wanted.engine, wanted.model)) as news:
            async for _ in news:
                pass
        return _json({"model": wanted.model, "status": "success"})


async def _pull_lines(service: NodeService, wanted: PullRequest) -> AsyncIterator[bytes]:
    try:
        async with aclosing(service.pull(wanted.engine, wanted.model)) as news:
            async for progress in news:
                yield encoder.encode(_shown(progress)) + b"\n"
    except CouncilError as error:
        yield encoder.encode({"status": "error", "error": error.to_problem()}) + b"\n"


def _shown(progress: PullProgress) -> dict[str, Any]:
    shown = {"status": progress.status, "completed": progress.completed, "total": progress.total}
    return shown if progress.licence is None else {**shown, "licence": progress.licence}
