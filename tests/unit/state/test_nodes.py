"""Nodes that people added are there after a restart, once each."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConflictError, InvalidRequestError, NotFoundError
from master.state.nodes import StoredNode
from master.state.store import Store


async def test_nodes_survive_a_restart_in_their_order(store: Store, address: str, tmp_path: Path) -> None:
    await store.nodes.add("pc9", "http://10.0.0.9:8001", "secret", "ab:cd")
    await store.nodes.add("pc2", "http://10.0.0.2:8001", None, None)
    await store.nodes.set_draining("pc2", True)
    await store.close()
    again = await Store.open(address, data_dir=tmp_path)
    assert await again.nodes.list() == [
        StoredNode("pc9", "http://10.0.0.9:8001", "secret", "ab:cd", False),
        StoredNode("pc2", "http://10.0.0.2:8001", None, None, True),
    ]
    await again.close()


async def test_a_name_and_an_address_are_taken_once(store: Store) -> None:
    await store.nodes.add("pc2", "http://10.0.0.2:8001", None, None)
    with pytest.raises(ConflictError):
        await store.nodes.add("pc2", "http://10.0.0.3:8001", None, None)
    with pytest.raises(ConflictError):
        await store.nodes.add("pc3", "http://10.0.0.2:8001", None, None)
    assert [one.name for one in await store.nodes.list()] == ["pc2"]


async def test_a_removed_node_can_be_added_again(store: Store) -> None:
    await store.nodes.add("pc2", "http://10.0.0.2:8001", None, None)
    await store.nodes.remove("pc2")
    await store.nodes.remove("pc2")
    with pytest.raises(NotFoundError, match="pc2"):
        await store.nodes.get("pc2")
    await store.nodes.add("pc2", "http://10.0.0.2:8001", None, None)
    assert (await store.nodes.get("pc2")).draining is False


async def test_a_name_that_no_database_would_take_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequestError, match="63 characters"):
        await store.nodes.add("n" * 64, "http://10.0.0.2:8001", None, None)
