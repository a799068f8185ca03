"""Health and metrics of the master."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from common import PROTOCOL_VERSION, __version__
from common.host import system_health
from master.api.models import cluster_models
from master.cluster.condition import trouble
from master.cluster.node import ENGINES
from master.metrics import REGISTRY
from master.services import Master

router = APIRouter(tags=["health"])


@router.get("/health")
async def health(master: Master, response: Response) -> dict[str, Any]:
    """`healthy`: a node answers and the database takes writes; `degraded`: one node is in trouble;
    `unhealthy` (503): no council can be held. `checks` says in words what is wrong with which node.
    """
    checks = {"database": await master.store.pulse.state()}
    nodes = list(master.registry.nodes.values())
    answering = [node for node in nodes if node.answers]
    models = any(node.models for node in answering)
    checks["nodes"] = "connected" if answering else "none"
    checks["models"] = "connected" if models else "none"
    background = master.background.state
    checks["background_engine"] = background
    now, wall = time.monotonic(), time.time()
    for node in nodes:
        if (wrong := trouble(node, now, wall)) is not None:
            checks[f"node {node.name}"] = wrong
    if checks["database"] != "connected" or not answering:
        status = "unhealthy"
    elif (
        not models
        or background == "down"
        or any(node.state != "healthy" or not node.breaker.is_closed for node in nodes)
    ):
        status = "degraded"
    else:
        status = "healthy"
    if status == "unhealthy":
        response.status_code = 503
    return {
        "status": status,
        "role": "master",
        "protocol": PROTOCOL_VERSION,
        "name": master.settings.name,
        "version": __version__,
        "uptime_s": round(time.monotonic() - master.started_at, 1),
        "checks": checks,
    }


@router.get("/health/system")
async def health_system(master: Master) -> dict[str, Any]:
    """This machine, and what the engines of every node take now, in percent of their whole machine."""
    return {**await asyncio.to_thread(system_health, master.settings.data_dir), "nodes": master.usage.now()}


@router.get("/health/ollama")
async def health_ollama(master: Master) -> dict[str, Any]:
    """Every node's engines as they last told."""
    return {
        "nodes": [
            {
                "node": node.name,
                "state": node.state,
                "engines": [
                    {
                        "name": engine.name,
                        "kind": engine.kind,
                        "address": engine.address,
                        "status": engine.status,
                        "version": engine.version,
                        "latency_ms": engine.latency_ms,
                        "error": engine.error,
                    }
                    for engine in node.engines
                ],
            }
            for node in master.registry.nodes.values()
        ]
    }


@router.get("/health/models")
async def health_models(master: Master) -> dict[str, Any]:
    """The models of every engine; those that only a background engine has are offered to nobody."""
    return {"models": cluster_models(master.registry, ENGINES)}


@router.get("/metrics", include_in_schema=False)
async def metrics() -> Response:
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
