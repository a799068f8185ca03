"""The models of the cluster, and those worth having."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from common.protocol import NDJSON_MEDIA_TYPE
from master.api.schemas import PullModel
from master.cluster.pulling import choose_nodes, pull_on
from master.cluster.registry import Registry
from master.recommended import Use, recommended
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
async def recommended_models(
    master: Master, use: Annotated[Use, Query(alias="for")] = "council"
) -> dict[str, Any]:
    """Models that suit a council on ordinary PCs, or background work (`?for=background`, with the memory
    that each takes): the role of each, its licence, and whether the cluster has it.
    """
    offered = [entry["name"] for entry in cluster_models(master.registry)]
    return recommended(use, offered, master.settings.ollama_background_model)


@router.post("/pull")
async def pull_model(body: PullModel, master: Master) -> StreamingResponse:
    """Fetch a model on one node, the first that answers when none is named, or on every one (`all`).

    NDJSON progress, each line with its `worker`. `embedded` asks for a GGUF file: only nodes with the
    embedded engine fetch it.
    """
    nodes = choose_nodes(master.registry, worker=body.worker, everywhere=body.all, embedded=body.embedded)
    return StreamingResponse(pull_on(master.registry, nodes, body.model), media_type=NDJSON_MEDIA_TYPE)
