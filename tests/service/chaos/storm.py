"""What goes wrong when: blows to nodes, drawn from a seed, and the task that deals them."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.service.chaos.fleet import Fleet, FleetNode

SEED_VARIABLE = "COUNCIL_CHAOS_SEED"
DEFAULT_SEED = 20261121
Kind = Literal["kill", "freeze", "stop"]


def seed() -> int:
    """`COUNCIL_CHAOS_SEED`, or always the same one."""
    return int(os.environ.get(SEED_VARIABLE, DEFAULT_SEED))


@dataclass(frozen=True, slots=True)
class Blow:
    """After `pause_s` a node is struck; `lasts_s` later it is made well again."""

    pause_s: float
    node: str
    kind: Kind
    lasts_s: float


def blows(names: Sequence[str], number: int, longest_s: float) -> Iterator[Blow]:
    """An endless sequence, the same for the same seed."""
    chance = random.Random(number)
    while True:
        kind = chance.choice(KINDS)
        lasts_s = longest_s * chance.uniform(*_LASTS[kind])
        yield Blow(chance.uniform(0.1, 0.7), chance.choice(names), kind, lasts_s)


KINDS: tuple[Kind, ...] = ("kill", "freeze", "stop")
# As parts of the longest. A frozen node is found after five seconds: of eight, some thaw before, some after.
_LASTS = {"kill": (0.01, 0.25), "freeze": (0.06, 1.0), "stop": (0.01, 0.12)}


@dataclass
class Storm:
    """Deals blows until it is over. At least `spared` nodes are well at any time."""

    fleet: Fleet
    seed: int
    longest_s: float
    spared: int = 1
    dealt: Counter[Kind] = field(default_factory=Counter)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def raging(self) -> AsyncIterator[Storm]:
        """While the block runs; after it every node is up again."""
        task = asyncio.create_task(self._rage())
        try:
            yield self
        finally:
            self._over.set()
            await task

    async def _rage(self) -> None:
        async with asyncio.TaskGroup() as group:
            for blow in blows(sorted(self.fleet.nodes), self.seed, self.longest_s):
                if await self._over_within(blow.pause_s):
                    return
                node = self.fleet.nodes[blow.node]
                well = [one for one in self.fleet.nodes.values() if one.is_well]
                if node.is_well and len(well) > self.spared:
                    self.dealt[blow.kind] += 1
                    if blow.kind == "freeze":
                        node.freeze()
                        group.create_task(self._thaw(node, blow))
                    else:
                        group.create_task(self._replace(node, blow))

    async def _over_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()

    async def _thaw(self, node: FleetNode, blow: Blow) -> None:
        await self._over_within(blow.lasts_s)
        node.thaw()

    async def _replace(self, node: FleetNode, blow: Blow) -> None:
        if blow.kind == "kill":
            await node.kill()
        else:
            assert await node.stop() == 0
        await self._over_within(blow.lasts_s)
        await node.start()
