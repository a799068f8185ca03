"""What the registry keeps of a node's answers."""

from __future__ import annotations

from typing import cast

import pytest

from common.errors import InvalidRequestError
from common.protocol import EngineInfo, EngineName, Health, ModelInfo
from master.cluster.node_client import Inventory, NodeClient
from master.cluster.registry import Node, Registry, check_url


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


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("192.168.1.20:8001", "https://192.168.1.20:8001"),
        ("pc2", "https://pc2:8001"),
        ("[fd00::1]", "https://[fd00::1]:8001"),
        ("127.0.0.1:9", "http://127.0.0.1:9"),
        ("localhost", "http://localhost:8001"),
        ("[::1]:9", "http://[::1]:9"),
        ("http://pc2", "http://pc2:8001"),
        ("https://localhost:9/", "https://localhost:9"),
    ],
)
def test_an_address_without_a_scheme_means_what_a_node_speaks_there(given: str, meant: str) -> None:
    assert check_url(given) == meant


@pytest.mark.parametrize("url", ["", "ftp://pc2", "http://", "[", "http://[", "pc2:x", "me@pc2", "pc2?x=1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_url(url)


async def test_a_key_leaves_this_machine_over_tls_only_unless_the_network_is_trusted_entirely() -> None:
    registry = Registry(heartbeat_s=60, connect_timeout_s=1)
    with pytest.raises(InvalidRequestError, match=r"in the clear.*https://.*--insecure-lan") as refused:
        registry.add("http://192.0.2.9:8001", name="pc2", key="the key of pc2")
    assert "the key of pc2" not in refused.value.detail
    with pytest.raises(InvalidRequestError, match="--fingerprint"):
        registry.add("192.0.2.9:8001", name="pc2", key="the key of pc2")
    assert registry.nodes == {}
    for name, url, key in (("open", "http://192.0.2.9:8001", None), ("here", "http://127.0.0.1:1", "a key")):
        assert registry.add(url, name=name, key=key).client.url == url
    with pytest.raises(InvalidRequestError, match="in the clear"):
        await registry.move("here", "http://192.0.2.10:8001")
    await registry.close()
    trusting = Registry(heartbeat_s=60, connect_timeout_s=1, insecure_lan=True)
    assert (
        trusting.add("http://192.0.2.9:8001", name="pc2", key="a key").client.url == "http://192.0.2.9:8001"
    )
    await trusting.close()
