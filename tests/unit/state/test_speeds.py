"""Learned speeds survive a restart, and a disk that refuses costs none of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.errors import StorageBusyError
from master.cluster.speed_keeping import keeping
from master.cluster.speeds import Learned, Sample, Speeds
from master.state.store import Store

SHOWN = Sample(prompt_tokens=200, completion_tokens=100, load_s=3.0, prompt_s=0.5, generate_s=5.0)


async def test_a_restarted_master_predicts_what_the_last_one_learned(
    store: Store, address: str, tmp_path: Path
) -> None:
    learning = Speeds()
    async with keeping(learning, store.speeds):
        for _ in range(4):
            learning.learn("pc2", "main", "m", 10**9, SHOWN)
    await store.close()
    again = await Store.open(address, data_dir=tmp_path)
    try:
        remembering = Speeds()
        async with keeping(remembering, again.speeds):
            predicted = remembering.of("pc2", "main", "m", 10**9)
        assert predicted == learning.of("pc2", "main", "m", 10**9)
        assert predicted.load_s == 3.0
    finally:
        await again.close()


async def test_rows_are_written_over(store: Store) -> None:
    first = Learned("pc2", "main", "m", "load", 3.0, 1)
    later = Learned("pc2", "main", "m", "load", 4.0, 2)
    other = Learned("pc3", "main", "", "sharing", 0.2, 5, usual=0.1)
    await store.speeds.keep([first, other])
    await store.speeds.keep([later])
    assert sorted(await store.speeds.list(), key=lambda one: one.node) == [later, other]


class _Refusing:
    """A disk that refuses once."""

    def __init__(self) -> None:
        self.tries = 0
        self.kept: list[Learned] = []

    async def list(self) -> list[Learned]:
        return []

    async def keep(self, rows: Iterable[Learned]) -> None:
        self.tries += 1
        if self.tries == 1:
            raise StorageBusyError("locked")
        self.kept = [*rows]


async def test_what_could_not_be_written_is_written_with_the_next() -> None:
    disk = _Refusing()
    speeds = Speeds()
    async with keeping(speeds, disk, every_s=0.01):
        speeds.learn("pc2", "main", "m", 10**9, SHOWN)
    async with keeping(speeds, disk):
        pass
    assert {one.quantity for one in disk.kept} == {"load", "prompt", "generate"}
