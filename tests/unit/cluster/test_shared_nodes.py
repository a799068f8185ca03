"""The registry follows the database through conflicts about addresses, and loses no member on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from master.cluster.registry import Registry
from master.cluster.shared_nodes import SharedNodes
from master.state.nodes import StoredNode
from master.whereabouts import nowhere

HERE, THERE = "http://198.51.100.20:8001", "http://198.51.100.21:8001"
PC2 = StoredNode("pc2", HERE, "lcn_pc2", None, draining=False)
PC3 = StoredNode("pc3", THERE, "lcn_pc3", None, draining=False)


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    found = Registry(heartbeat_s=60, connect_timeout_s=1, insecure_lan=True)  # plain addresses, and keys
    yield found
    await found.close()


def addresses(registry: Registry) -> dict[str, str]:
    return {name: node.client.url for name, node in registry.nodes.items()}


@pytest.mark.parametrize("order", [1, -1])
async def test_two_nodes_that_swapped_addresses_between_two_looks_are_both_there(
    registry: Registry, order: int
) -> None:
    shared = SharedNodes(registry, lambda: None)
    shared.start_with([PC2, PC3])
    await shared.follow([replace(PC2, url=THERE), replace(PC3, url=HERE)][::order])
    assert addresses(registry) == {"pc2": THERE, "pc3": HERE}


async def test_a_node_that_lost_its_address_at_another_master_is_nowhere_here_as_well(
    registry: Registry,
) -> None:
    shared = SharedNodes(registry, lambda: None)
    shared.start_with([PC2, PC3])
    await shared.follow([replace(PC2, url=THERE), replace(PC3, url=nowhere(THERE, "pc3"))])
    assert addresses(registry)["pc2"] == THERE
    assert registry.get("pc3").is_nowhere


async def test_an_address_of_the_settings_costs_no_member_its_place(registry: Registry) -> None:
    listed = registry.add(HERE, name="listed")
    shared = SharedNodes(registry, lambda: None)
    shared.start_with([PC2, PC3])
    assert registry.get("pc2").is_nowhere
    assert registry.get("pc2").client.key == "lcn_pc2"
    await shared.follow([PC2, replace(PC3, url=HERE)])
    assert addresses(registry)["pc3"] == THERE
    assert registry.at(HERE) is listed


async def test_a_node_that_was_added_here_and_removed_elsewhere_between_two_looks_is_forgotten(
    registry: Registry,
) -> None:
    shared = SharedNodes(registry, lambda: None)
    registry.add("http://127.0.0.1:8001", name="local")  # no member, and in no database
    registry.add(HERE, name="pc2", key="lcn_pc2").stored = True
    await shared.follow([])  # this look may have begun before it was added
    assert set(registry.nodes) == {"local", "pc2"}
    await shared.follow([])
    assert set(registry.nodes) == {"local"}
