"""The models of the cluster, and those worth having."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from common.errors import CouncilError, NotFoundError
from common.protocol import NDJSON_MEDIA_TYPE
from master.api.schemas import PullModel
from master.cluster import model_names
from master.cluster.registry import Node, Registry
from master.council.choice import RECOMMENDED
from master.services import Master

router = APIRouter(prefix="/api/council/models", tags=["models"])


def cluster_models(registry: Registry) -> list[dict[str, Any]]:
    """One entry per model of the answering nodes, with the nodes that have it. `slots` adds up."""
    found: dict[str, dict[str, Any]] = {}
    for node in registry.nodes.values():
        for model in node.models if node.answers else ():
            entry = found.setdefault(
                model.name,
                {
                    "name": model.name,
                    "size": model.size,
                    "engine": model.engine,
                    "resident": False,
                    "slots": 0,
                    "capabilities": model.capabilities,
                    "context_length": model.context_length,
                    "practice": model.practice,
                    "nodes": [],
                },
            )
            entry["resident"] = entry["resident"] or model.resident
            entry["slots"] += model.slots
            entry["context_length"] = min(entry["context_length"], model.context_length)
            entry["nodes"].append(node.name)
    return sorted(found.values(), key=lambda entry: str(entry["name"]))


@router.get("")
async def list_models(master: Master) -> dict[str, Any]:
    return {"models": cluster_models(master.registry)}


@router.get("/recommended")
async def recommended_models(master: Master) -> dict[str, Any]:
    """Models that suit a council on ordinary PCs, the role of each, and whether the cluster has it."""
    offered = [entry["name"] for entry in cluster_models(master.registry)]
    return {
        "models": [
            {
                "name": one.name,
                "size": one.size,
                "role": one.role,
                "suits": one.suits,
                "installed": model_names.find(one.name, offered) is not None,
            }
            for one in RECOMMENDED
        ]
    }


@router.post("/pull")
async def pull_model(body: PullModel, master: Master) -> StreamingResponse:
    """Fetch a model on one node (the first that answers when none is named); NDJSON progress."""
    if body.worker is not None:
        node = master.registry.get(body.worker)
    else:
        answering = [one for one in master.registry.nodes.values() if one.answers]
        if not answering:
            raise NotFoundError("no node answers; see `council worker list`")
        node = answering[0]
    return StreamingResponse(_progress(node, body.model), media_type=NDJSON_MEDIA_TYPE)


async def _progress(node: Node, model: str) -> AsyncIterator[bytes]:
    try:
        async with node.client.pull(model) as lines:
            async for line in lines:
                yield line + b"\n"
    except CouncilError as error:
        yield json.dumps({"error": error.to_problem()}).encode() + b"\n"
