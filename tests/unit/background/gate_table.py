"""A gate under a simulated clock: a script of events, and what the gate did."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from master.background.gate import Gate, Moved, Rules
from master.background.host_holds import Caps, HostSample
from master.background.night import NightWindow
from master.background.states import GateState

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 7, 1, 12, 0, tzinfo=BERLIN)
FREE = HostSample(foreign_cpu=0.02, foreign_memory=0.3, free_memory=0.6)


def load(cpu: float = 0.02, memory: float = 0.3, **fields: object) -> HostSample:
    return HostSample(foreign_cpu=cpu, foreign_memory=memory, free_memory=1.0 - memory, **fields)  # type: ignore[arg-type]


@dataclass
class Table:
    """One gate, its time, and the moves of the cluster and of each machine."""

    rules: Rules = field(default_factory=Rules)
    night: NightWindow = field(default_factory=lambda: NightWindow(False, 22, 6))
    wall: datetime = NOON
    nodes: tuple[str, ...] = ("pc1",)
    now: float = 1000.0
    loads: dict[str, HostSample] = field(default_factory=dict)
    moves: list[Moved] = field(default_factory=list)
    seen: list[tuple[float, GateState]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate = Gate(self.rules, self.night, now=self.now)
        self.look()

    def look(self) -> None:
        for node in self.nodes:
            self.gate.sample(node, self.loads.get(node, FREE), self.now)
        self.decide()

    def decide(self) -> None:
        self.moves += self.gate.decide(self.now, self.wall)
        self.seen.append((self.now, self.gate.state))

    def run(self, seconds: float, *, every_s: float = 5.0) -> None:
        """Let time pass, with a look at every machine each `every_s`."""
        end = self.now + seconds
        while self.now < end:
            self.pass_time(min(every_s, end - self.now))
            self.look()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.wall = (self.wall.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(self.wall.tzinfo)

    def use(self, node: str | None = None) -> None:
        self.gate.activity(self.now, node)
        self.decide()

    @property
    def state(self) -> GateState:
        return self.gate.state

    def said(self, node: str | None = None, *, long: bool = False) -> str:
        return self.gate.verdict(self.now, self.wall, node, long=long).reason

    def is_open(self, node: str | None = None, *, long: bool = False) -> bool:
        return self.gate.verdict(self.now, self.wall, node, long=long).open

    def openings(self) -> int:
        """How often the cluster went from closed to open or back."""
        states = [state.is_open for _, state in self.seen]
        return sum(before is not after for before, after in pairwise(states))

    def open_s(self) -> float:
        """How long the cluster was open, as far as was looked."""
        pairs = pairwise(self.seen)
        return sum(after - at for (at, state), (after, _) in pairs if state.is_open)


def no_caps(**fields: float) -> Rules:
    return Rules(**fields, caps=Caps(max_cpu=1.0, max_memory=1.0))
