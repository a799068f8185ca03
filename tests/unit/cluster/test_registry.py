"""What the registry keeps of a node's answers, and of nodes that move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from structlog.testing import capture_logs

from common.errors import ConflictError, InvalidRequestError, NodeUnreachableError
from common.protocol import EngineInfo, EngineName, Health, ModelInfo
from master.cluster.condition import trouble
from master.cluster.node_client import Inventory, NodeClient
from master.cluster.registry import Node, Registry, check_url

HERE, THERE = "http://198.51.100.20:8001", "http://198.51.100.21:8001"


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


class Gone(TwoEngines):
    """A node that does not answer."""

    async def health(self) -> Health:
        raise NodeUnreachableError("pc2 does not answer", node="pc2")


async def test_a_model_of_the_background_engine_alone_is_not_offered_to_councils() -> None:
    registry = Registry(heartbeat_s=60, connect_timeout_s=1)
    node = registry.nodes["pc2"] = Node("pc2", cast(NodeClient, TwoEngines()))
    await registry.refresh(node)
    assert registry.nodes_with("llama3.2:3b") == []
    place = node.view(0.0).place("llama3.2:1b")
    assert place is not None
    assert place.resident, "the main engine's copy counts, not the background engine's"


async def test_a_node_that_is_expected_is_starting_until_it_is_added() -> None:
    registry = Registry(heartbeat_s=60, connect_timeout_s=1)
    registry.expect("local")
    assert registry.starting == ["local"]
    registry.add("http://127.0.0.1:9", name="local")
    assert registry.starting == []
    await registry.close()


async def test_a_node_that_is_lost_and_back_is_a_warning_and_a_first_answer_is_none() -> None:
    registry = Registry(heartbeat_s=60, connect_timeout_s=1)
    client = TwoEngines()
    node = registry.nodes["pc2"] = Node("pc2", cast(NodeClient, client))
    with capture_logs() as told:
        await registry.refresh(node)
        node.client = cast(NodeClient, Gone())
        await registry.refresh(node)
        node.client = cast(NodeClient, client)
        await registry.refresh(node)
    assert [(one["log_level"], one["was"], one["state"]) for one in told] == [
        ("info", "connecting", "healthy"),
        ("warning", "healthy", "unreachable"),
        ("warning", "unreachable", "healthy"),
    ]


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


def joined(registry: Registry, name: str, url: str) -> Node:
    return registry.add(url, name=name, key=f"lcn_{name}")


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    found = Registry(heartbeat_s=60, connect_timeout_s=1, insecure_lan=True)  # plain addresses, and keys
    yield found
    await found.close()


async def test_a_node_that_moves_is_the_same_node_at_another_address(registry: Registry) -> None:
    node = joined(registry, "pc2", HERE)
    node.draining, node.mac = True, "aa:bb:cc:dd:ee:ff"
    await registry.move("pc2", THERE)
    assert registry.get("pc2") is node
    assert (node.client.url, node.client.key, node.state) == (THERE, "lcn_pc2", "connecting")
    assert (node.draining, node.mac, registry.at(HERE)) == (True, "aa:bb:cc:dd:ee:ff", None)


async def test_a_node_whose_address_another_one_has_is_known_and_nowhere(registry: Registry) -> None:
    sleeper, mover = joined(registry, "pc3", HERE), joined(registry, "pc2", THERE)
    sleeper.state = "unreachable"
    registry.check_move("pc2", HERE)
    await registry.move("pc2", HERE)
    assert registry.at(HERE) is mover
    assert sleeper.is_nowhere
    await registry.refresh(sleeper)  # nobody is asked for an address that is none
    assert (sleeper.state, "another node has its address" in str(trouble(sleeper, 0, 0))) == (
        "unreachable",
        True,
    )
    await registry.move("pc3", THERE)
    assert {name: node.client.url for name, node in registry.nodes.items()} == {"pc3": THERE, "pc2": HERE}


async def test_a_move_to_the_address_that_a_person_gave_to_another_node_loses_neither(
    registry: Registry,
) -> None:
    listed = registry.add(HERE, name="listed")
    mover = joined(registry, "pc2", THERE)
    with pytest.raises(ConflictError, match="listed was given the address"):
        registry.check_move("pc2", HERE)
    with pytest.raises(ConflictError, match="COUNCIL_NODES"):
        await registry.move("pc2", HERE)
    assert registry.nodes == {"listed": listed, "pc2": mover}
    assert (listed.client.url, mover.client.url) == (HERE, THERE)


async def test_a_node_that_answers_where_it_is_known_is_not_driven_away(registry: Registry) -> None:
    holder = joined(registry, "pc3", HERE)
    joined(registry, "pc2", THERE)
    holder.state, holder.reported_name = "healthy", "pc3"
    with pytest.raises(ConflictError, match="pc3 answers at"):
        registry.check_move("pc2", HERE)
    holder.reported_name = "pc2"  # over plain HTTP whoever is there answers
    registry.check_move("pc2", HERE)


async def test_what_the_old_address_answers_late_is_not_taken_for_the_new_one(registry: Registry) -> None:
    node = joined(registry, "pc2", HERE)
    asked, told = asyncio.Event(), asyncio.Event()

    class Late(TwoEngines):
        async def health(self) -> Health:
            asked.set()
            await told.wait()
            return await super().health()

        async def aclose(self) -> None:
            """It was never open."""

    node.client = cast(NodeClient, Late())
    refreshing = asyncio.create_task(registry.refresh(node))
    await asked.wait()
    node.client.key = "lcn_pc2"
    await registry.move("pc2", THERE)
    told.set()
    await refreshing
    assert node.state == "connecting"
