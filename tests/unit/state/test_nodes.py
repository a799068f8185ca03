"""Nodes that people added are there after a restart, once each."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from common.errors import ConflictError, InvalidRequestError, NotFoundError
from master.state.nodes import StoredNode
from master.state.store import Store
from master.whereabouts import nowhere

HERE, THERE = "https://10.0.0.2:8001", "https://10.0.0.3:8001"


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


async def member(store: Store, name: str, url: str) -> None:
    """A node joins with a token of its own."""
    await store.access.add_token(f"digest of {name}", timedelta(minutes=1))
    await store.access.join(f"digest of {name}", name=name, url=url, key=f"lcn_{name}")


async def addresses(store: Store) -> dict[str, str]:
    return {one.name: one.url for one in await store.nodes.list()}


async def test_a_node_that_moves_takes_over_an_address_and_its_holder_stays_a_member(store: Store) -> None:
    await member(store, "pc2", HERE)
    await member(store, "pc3", THERE)
    await store.access.move_node("pc2", THERE)
    assert await addresses(store) == {"pc2": THERE, "pc3": nowhere(THERE, "pc3")}
    await store.access.move_node("pc3", HERE)
    assert await addresses(store) == {"pc2": THERE, "pc3": HERE}
    assert [one.key for one in await store.nodes.list()] == ["lcn_pc2", "lcn_pc3"]


async def test_a_newcomer_at_the_address_of_a_member_forgets_it_not(store: Store) -> None:
    await member(store, "pc3", HERE)
    await store.nodes.set_mac("pc3", "aa:bb:cc:dd:ee:ff")
    await member(store, "new", HERE)
    assert await addresses(store) == {"pc3": nowhere(HERE, "pc3"), "new": HERE}
    assert (await store.nodes.get("pc3")).mac == "aa:bb:cc:dd:ee:ff"


async def test_who_joins_anew_at_its_address_has_one_row_and_its_new_key(store: Store) -> None:
    await member(store, "pc2", HERE)
    await store.access.add_token("again", timedelta(minutes=1))
    await store.access.join("again", name="pc2", url=HERE, key="lcn_anew")
    assert [(one.name, one.key) for one in await store.nodes.list()] == [("pc2", "lcn_anew")]
    await store.access.add_token("elsewhere", timedelta(minutes=1))
    with pytest.raises(ConflictError):
        await store.access.join("elsewhere", name="pc2", url=THERE, key="lcn_thief")
    assert await store.access.token_lives("elsewhere")
    assert (await store.nodes.get("pc2")).key == "lcn_anew"


async def test_an_address_that_a_person_gave_is_not_taken_over_by_moving(store: Store) -> None:
    await store.nodes.add("added", HERE, "secret", "ab:cd")
    await member(store, "pc2", THERE)
    with pytest.raises(ConflictError):
        await store.access.move_node("pc2", HERE)
    assert await addresses(store) == {"added": HERE, "pc2": THERE}
    await member(store, "new", HERE)  # a token is that person's word as well
    assert await addresses(store) == {"pc2": THERE, "new": HERE}
