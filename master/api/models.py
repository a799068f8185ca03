"""The models of the cluster, and those worth having."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from common.protocol import NDJSON_MEDIA_TYPE, EngineName
from master.api.schemas import PullModel
from master.cluster.pulling import choose_nodes, pull_on
from master.cluster.registry import Registry
from master.recommended import Use, recommended
from master.services import Master

router = APIRouter(prefix="/api/council/models", tags=["models"])


def cluster_models(registry: Registry, engines: Sequence[EngineName] = ("main",)) -> list[dict[str, Any]]:
    """One entry per model and engine of the answering nodes, with the nodes that have it. `slots` adds up.

    People are offered what main engines have.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for node, engine in itertools.product(registry.nodes.values(), engines):
        for model in node.models_on(engine) if node.answers_on(engine) else ():
            entry = found.setdefault(
                (model.name, model.engine),
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
    return sorted(found.values(), key=lambda entry: (str(entry["name"]), entry["engine"] != "main"))


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
    engines: Sequence[EngineName] = ("main", "background") if use == "background" else ("main",)
    offered = [entry["name"] for entry in cluster_models(master.registry, engines)]
    return recommended(use, offered, master.settings.ollama_background_model)


@router.post("/pull")
async def pull_model(body: PullModel, master: Master) -> StreamingResponse:
    """Fetch a model on one node, the first that answers when none is named, or on every one (`all`).

    NDJSON progress, each line with its `worker`. `embedded` asks for a GGUF file: only nodes with the
    embedded engine fetch it. `background`: the background engine fetches it.
    """
    engine: EngineName = "background" if body.background else "main"
    nodes = choose_nodes(
        master.registry, worker=body.worker, everywhere=body.all, embedded=body.embedded, engine=engine
    )
    pulled = pull_on(master.registry, nodes, body.model, engine)
    return StreamingResponse(pulled, media_type=NDJSON_MEDIA_TYPE)
