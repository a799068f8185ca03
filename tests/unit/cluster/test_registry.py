"""What the registry keeps of a node's answers."""

from __future__ import annotations

from typing import cast

from common.protocol import EngineInfo, EngineName, Health, ModelInfo
from master.cluster.node_client import Inventory, NodeClient
from master.cluster.registry import Node, Registry


class TwoEngines:
    """A node with a main and a background engine, as far as a heartbeat asks."""

    url = "http://192.168.1.20:8001"

    async def health(self) -> Health:
        return Health(
            status="healthy", role="worker", protocol=1, name="pc2", version="1", uptime_s=1.0, checks={}
        )

    async def inventory(self) -> Inventory:
        def info(name: str, engine: EngineName, *, resident: bool) -> ModelInfo:
            return ModelInfo(name=name, size=1, engine=engine, resident=resident, slots=5)

        models = [
            info("llama3.2:1b", "main", resident=True),
            info("llama3.2:1b", "background", resident=False),
            info("llama3.2:3b", "background", resident=True),
        ]
        return Inventory(models, {"main": 5, "background": 5})

    async def engines(self) -> list[EngineInfo]:
        return []


async def test_a_model_of_the_background_engine_alone_is_not_offered_to_councils() -> None:
    registry = Registry(heartbeat_s=60, connect_timeout_s=1)
    node = registry.nodes["pc2"] = Node("pc2", cast(NodeClient, TwoEngines()))
    await registry.refresh(node)
    assert registry.nodes_with("llama3.2:3b") == []
    place = node.view(0.0).place("llama3.2:1b")
    assert place is not None
    assert place.resident, "the main engine's copy counts, not the background engine's"
