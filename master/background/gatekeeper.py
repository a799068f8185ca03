"""The shell of the gate: hears who uses the cluster, looks at its machines, and lets background work pass.

`await keeper.passed()` before each piece of work. Where nobody works, the gate costs a wake-up for each look
at a node, which the registry takes anyway, and one for each time that is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from common.errors import CouncilError
from common.host import own_use, system_health
from common.logs import get_logger
from common.master_settings import MasterSettings
from common.security import is_loopback
from master.background.foreign_use import ForeignUse, Own
from master.background.gate import HERE, Gate, Rules, Verdict
from master.background.host_holds import STEADY_S, Caps
from master.background.night import NightWindow
from master.background.pattern import HourOfWeek, Pattern, expected_quiet_s
from master.background.states import GateState
from master.cluster.history import EVERY_S
from master.cluster.registry import Node, Registry
from master.metrics import GATE_MOVES, GATE_OPEN

__all__ = ["HERE", "Gatekeeper", "rules_of"]

WATCHED_EVERY_S = 5.0
_WATCHED_FOR_S = 120.0  # work asks again at its next call, at the latest after so long
_SAME_USE_S = 0.3  # two readings of one moment differ by less
_LONGEST_NAP_S = 30.0  # the clock on the wall may be set meanwhile
_JUDGED_APART_S = 0.00025
_log = get_logger(__name__)


def rules_of(settings: MasterSettings) -> Rules:
    """Where the idle time is set to little, machines need not be steady for longer than that."""
    caps = Caps(
        max_cpu=settings.bg_max_cpu,
        max_memory=settings.bg_max_memory,
        on_battery=settings.bg_on_battery,
        steady_s=min(STEADY_S, settings.bg_idle_threshold_s),
    )
    return Rules(settings.bg_idle_threshold_s, settings.bg_long_idle_threshold_s, caps)


class ActivityStore(Protocol):
    """Where it is kept when people are there."""

    @property
    def list(self) -> Callable[[], Awaitable[dict[int, HourOfWeek]]]: ...

    @property
    def keep(self) -> Callable[[int, HourOfWeek], Awaitable[None]]: ...

    @property
    def clear(self) -> Callable[[], Awaitable[None]]: ...


class Gatekeeper:
    """One for the master. `calls_on(node)`: how many calls of ours run there now."""

    def __init__(
        self,
        settings: MasterSettings,
        registry: Registry,
        *,
        calls_on: Callable[[str], int] = lambda _node: 0,
        store: ActivityStore | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._calls_on = calls_on
        self._store = store
        self.pattern = Pattern()
        self._open_for_long = False
        self._monotonic, self._wall = monotonic, wall
        night = NightWindow(settings.bg_overnight, settings.bg_overnight_start, settings.bg_overnight_end)
        self.gate = Gate(rules_of(settings), night, now=monotonic())
        self._foreign: dict[str, ForeignUse] = {}
        self._local: str | None = None  # the node on the master's own machine
        self._looked_here_at = float("-inf")
        self._asked_at = float("-inf")
        self._waiting = 0
        self._heard_at: float | None = None
        self._elsewhere_at = float("-inf")
        self._wake = asyncio.Event()
        self._looks_at = float("-inf")  # when it looks next by itself
        self._listeners: set[asyncio.Event] = set()
        registry.system_listeners.append(self._told)

    # -- what work asks -------------------------------------------------------------------------------------

    async def passed(self, node: str | None = None, *, long: bool = False) -> None:
        """Wait until work may go on: on that node, or (`None`) on any. `long`: work that takes long.

        Ask again before each further piece: the gate may have closed meanwhile. `HERE`: the master's machine.
        """
        await self._until(lambda: self.verdict(node, long=long).open)

    async def passed_on(self, nodes: Callable[[], Collection[str]]) -> None:
        """The same for work that one of these nodes can do; for any where there are none."""
        await self._until(lambda: any(self.verdict(node).open for node in nodes() or (None,)))

    async def _until(self, is_open: Callable[[], bool]) -> None:
        self._watch_closely()
        self._waiting += 1
        try:
            with self.changes() as changed:
                while not is_open():
                    # Which nodes there are, and what they have, changes without a change of the gate.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(EVERY_S):
                            await changed.wait()
                    changed.clear()
        finally:
            self._waiting -= 1
            self._asked_at = self._monotonic()

    @property
    def is_open(self) -> bool:
        """Whether work may run on some machine now."""
        return self.gate.state.is_open

    def closed_nodes(self) -> frozenset[str]:
        """The nodes on which no background work may start now."""
        return frozenset(name for name in self._registry.nodes if not self.verdict(name).open)

    def verdict(self, node: str | None = None, *, long: bool = False) -> Verdict:
        """Whether, why or why not, and how long it takes at least; as the last event left it."""
        if node == HERE and self._local is not None:
            node = self._local
        return self.gate.verdict(self._monotonic(), self._wall(), node, long=long)

    def explain(self, node: str | None = None, *, long: bool = False) -> str:
        """One line for people: "waiting: 142 s until idle; CPU 61 % > 50 %"."""
        return self.verdict(node, long=long).reason

    @contextmanager
    def changes(self) -> Iterator[asyncio.Event]:
        """An event of the caller's own, set whenever a state changes; the caller clears it."""
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)

    # -- what people do -------------------------------------------------------------------------------------

    def hear(self, node: str | None = None) -> None:
        """Somebody uses the council; with `node`: that machine, for something else."""
        if node is None:
            self._heard_at = self._monotonic()
        self.gate.activity(self._monotonic(), node)
        self._after_use(node)

    def begin_use(self) -> None:
        """Something interactive runs, until as many `end_use` have come."""
        self.gate.begin(self._monotonic())
        self._after_use()

    def end_use(self) -> None:
        self._heard_at = now = self._monotonic()
        self.gate.end(now)
        # Nothing moves before people have been away for a while: often the next look is early enough.
        if self.gate.busy == 0 and self._looks_at > now + self.gate.rules.active_s:
            self._wake.set()

    def used_s_ago(self) -> float | None:
        """When people last used this master; 0 while they do, `None`: not since it started."""
        if self.gate.busy:
            return 0.0
        return None if self._heard_at is None else self._monotonic() - self._heard_at

    def hear_elsewhere(self, seconds_ago: float) -> None:
        """People used another master on the same database then."""
        at = self._monotonic() - seconds_ago
        if at > self._elsewhere_at + _SAME_USE_S:
            self._elsewhere_at = at
            self.gate.activity(at)
            self._after_use()

    def _after_use(self, node: str | None = None) -> None:
        # Many calls may come in a second, and only the first of them moves anything.
        if node is not None or self.gate.state is not GateState.ACTIVE:
            self._decide()
            self._wake.set()

    # -- looking at machines --------------------------------------------------------------------------------

    def _told(self, node: Node, at: float, system: dict[str, Any]) -> None:
        """A node told of its machine, which may be ours as well."""
        if self._registry.nodes.get(node.name) is not node:
            return
        here = is_loopback(urlsplit(node.client.url).hostname or "")
        known = self._sample(node.name, at, system, Own(**own_use()) if here else None)
        if here and known:
            self._local = node.name
            self.gate.forget(HERE)

    def _sample(self, name: str, at: float, system: dict[str, Any], own: Own | None = None) -> bool:
        """Whether the machine is known by now: the first look at a CPU says nothing yet."""
        foreign = self._foreign.setdefault(name, ForeignUse())
        sample = foreign.read(at, system, own=own, calls=self._calls_on(name))
        if sample is not None:
            self.gate.sample(name, sample, self._monotonic())
            self._wake.set()
        return sample is not None

    async def _look_here(self) -> None:
        """The master's own machine, where no node tells of it."""
        known = self._registry.nodes.get(self._local or "")
        if known is not None and known.answers:
            return
        self._local = None
        if self._monotonic() - self._looked_here_at < self._every_s(HERE):
            return
        self._looked_here_at = self._monotonic()
        settings = self._settings
        system = await asyncio.to_thread(
            system_health, settings.data_dir, exclusive=settings.exclusive_programs
        )
        self._sample(HERE, self._looked_here_at, system)

    def _every_s(self, name: str) -> float:
        return self._registry.sample_every_s if name in self.gate.machines() else 1.0

    def _watch_closely(self) -> None:
        """Look often while the gate is open to somebody's work, and seldom otherwise."""
        self._asked_at = self._monotonic()
        self._set_pace()

    def _set_pace(self) -> None:
        works = self._waiting > 0 or self._monotonic() - self._asked_at < _WATCHED_FOR_S
        self._registry.sample_every_s = WATCHED_EVERY_S if works and self.is_open else EVERY_S

    # -- life -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self._store is not None:
            self.pattern.hours.update(await self._store.list())
        task = asyncio.create_task(self._run(), name="gate")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                self._forget_removed()
                await self._look_here()
                await self._learn()
                self._decide()
                nap_s = self._nap_s()
            except Exception:
                _log.exception("the gate could not be looked after")
                nap_s = 1.0
            self._wake.clear()
            self._looks_at = self._monotonic() + nap_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(nap_s):
                    await self._wake.wait()
            # The looks at many machines are judged together: each time all of them are gone through.
            await asyncio.sleep(min(len(self.gate.machines()) * _JUDGED_APART_S, 0.5))

    async def _learn(self) -> None:
        """Keep whether people were there in the hour that has ended."""
        wall = self._wall()
        self.gate.expected_use_s = expected_quiet_s(wall, self.pattern.hours)
        hour = self.pattern.watch(wall, active=self.gate.state is GateState.ACTIVE)
        if hour is None or self._store is None:
            return
        try:
            await self._store.keep(hour, self.pattern.hours[hour])
        except CouncilError as error:
            _log.warning("the hour's activity was not kept", code=error.code, detail=error.detail)

    async def forget_pattern(self) -> None:
        """Forget when people are there. Raises a storage error."""
        if self._store is not None:
            await self._store.clear()
        self.pattern.hours.clear()
        self._wake.set()

    def _nap_s(self) -> float:
        due = [self.gate.next_due(self._monotonic(), self._wall()), _LONGEST_NAP_S]
        if self._local is None:
            due.append(self._looked_here_at + self._every_s(HERE) - self._monotonic())
        return max(min(due), 0.01)

    def _forget_removed(self) -> None:
        for name in self.gate.machines().keys() - self._registry.nodes.keys() - {HERE}:
            self.gate.forget(name)
            self._foreign.pop(name, None)

    def _decide(self) -> None:
        moved = self.gate.decide(self._monotonic(), self._wall())
        self._set_pace()
        for_long, self._open_for_long = self._open_for_long, self.verdict(long=True).open
        if not moved and for_long is self._open_for_long:
            return
        for one in moved:
            GATE_MOVES.labels(state=str(one.after)).inc()
            _log.info("gate", node=one.node, was=str(one.before), state=str(one.after), reason=one.reason)
        GATE_OPEN.set(self.is_open)
        for event in self._listeners:
            event.set()
