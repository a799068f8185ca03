"""What goes wrong when: blows to nodes or engines, drawn from a seed, and the task that deals them."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

SEED_VARIABLE = "COUNCIL_CHAOS_SEED"
DEFAULT_SEED = 20261121
Kind = Literal["kill", "freeze", "stop"]


def seed() -> int:
    """`COUNCIL_CHAOS_SEED`, or always the same one."""
    return int(os.environ.get(SEED_VARIABLE, DEFAULT_SEED))


@dataclass(frozen=True, slots=True)
class Blow:
    """After `pause_s` a program is struck; `lasts_s` later it is made well again."""

    pause_s: float
    name: str
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


class Struck(Protocol):
    """A program that is killed, frozen and stopped, and started again at the same address."""

    @property
    def is_well(self) -> bool: ...

    async def start(self) -> None: ...

    async def kill(self) -> None: ...

    async def stop(self) -> int | None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


@dataclass
class Storm:
    """Deals blows until it is over. At least `spared` programs are well at any time."""

    targets: Mapping[str, Struck]
    seed: int
    longest_s: float
    spared: int = 1
    dealt: Counter[Kind] = field(default_factory=Counter)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def raging(self) -> AsyncIterator[Storm]:
        """While the block runs; after it everything is up again."""
        task = asyncio.create_task(self._rage())
        try:
            yield self
        finally:
            self._over.set()
            await task

    async def _rage(self) -> None:
        async with asyncio.TaskGroup() as group:
            for blow in blows(sorted(self.targets), self.seed, self.longest_s):
                if await self._over_within(blow.pause_s):
                    return
                target = self.targets[blow.name]
                well = [one for one in self.targets.values() if one.is_well]
                if target.is_well and len(well) > self.spared:
                    self.dealt[blow.kind] += 1
                    if blow.kind == "freeze":
                        target.freeze()
                        group.create_task(self._thaw(target, blow))
                    else:
                        group.create_task(self._replace(target, blow))

    async def _over_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self._over.is_set()

    async def _thaw(self, target: Struck, blow: Blow) -> None:
        await self._over_within(blow.lasts_s)
        target.thaw()

    async def _replace(self, target: Struck, blow: Blow) -> None:
        if blow.kind == "kill":
            await target.kill()
        else:
            assert await target.stop() == 0
        await self._over_within(blow.lasts_s)
        await target.start()
