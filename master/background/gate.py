"""When background work may run: pure. Activity, samples of machines and the time come in; states come out.

Activity of people closes the whole gate at once, activity on one machine only that machine; CPU, memory,
battery and exclusive programs hold one machine. The gate of the cluster is as open as its most open machine,
so that work goes to an idle node while another is busy. Durations are monotonic seconds; the clock on the
wall decides only about the night's window.

docs/guides/background.md, docs/decisions/0041-gate.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from master.background.host_holds import STALE_S, Caps, HostHolds, HostSample
from master.background.night import NightWindow
from master.background.states import TRANSITIONS, GateState

__all__ = ["HERE", "Gate", "Moved", "Rules", "Verdict"]

ACTIVE_S = 10.0
LEAST_BACK_OFF_S = 20.0
MOST_BACK_OFF_S = 600.0
_OPENNESS = (GateState.IDLE, GateState.LONG_IDLE, GateState.NIGHT)
NEVER = float("inf")
HERE = "this machine"  # the master's own, where no node tells of it; no node can be named so
SOON_S = 900.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say. With a short idle time the times that follow from it are short as well."""

    idle_s: float = 300.0
    long_idle_s: float = 1800.0
    caps: Caps = field(default_factory=Caps)

    @property
    def active_s(self) -> float:
        """How long one sign of activity counts as use."""
        return min(ACTIVE_S, self.idle_s / 2)

    @property
    def long_s(self) -> float:
        return max(self.idle_s, self.long_idle_s)

    @property
    def least_back_off_s(self) -> float:
        return min(LEAST_BACK_OFF_S, self.idle_s)

    @property
    def most_back_off_s(self) -> float:
        return min(MOST_BACK_OFF_S, 2 * self.idle_s)


@dataclass(frozen=True, slots=True)
class Moved:
    """A machine, or the cluster (`None`), went from one state to another."""

    node: str | None
    before: GateState
    after: GateState
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether work may run, and why or why not, in words. `wait_s`: what time alone still takes, if known."""

    open: bool
    state: GateState
    reason: str
    wait_s: float | None = None


@dataclass(slots=True)
class _Machine:
    holds: HostHolds
    state: GateState = GateState.ACTIVE
    since: float = 0.0
    used_at: float = -NEVER
    opened_at: float | None = None
    back_off_s: float = 0.0
    not_before: float = -NEVER


class Gate:
    """One for the master. `decide` after every event and when `next_due` has come.

    A machine is known, and may be open, once `sample` has told of it.
    """

    def __init__(self, rules: Rules, night: NightWindow, *, now: float) -> None:
        self.rules = rules
        self.night = night
        self._used_at = now  # nobody knows what was before the start: it counts as use
        self._busy = 0
        self._machines: dict[str, _Machine] = {}
        self.state = GateState.ACTIVE
        self.since = now
        self._is_night = False
        self.expected_use_s: float | None = None  # when people usually come next, as of the last `decide`

    # -- events ---------------------------------------------------------------------------------------------

    def activity(self, now: float, node: str | None = None) -> None:
        """Somebody uses the council, or (with `node`) that machine for something else."""
        if node is None:
            self._used_at = max(self._used_at, now)
        elif node in self._machines:
            self._machines[node].used_at = now

    def begin(self, now: float) -> None:
        """Something interactive starts; it counts as activity until its `end`."""
        self._busy += 1
        self.activity(now)

    def end(self, now: float) -> None:
        self._busy -= 1
        self.activity(now)

    def sample(self, node: str, sample: HostSample, now: float) -> None:
        """One look at a machine, in the order of time."""
        machine = self._machines.get(node)
        if machine is None:
            machine = self._machines[node] = _Machine(HostHolds(self.rules.caps), since=now)
        machine.holds.observe(sample, now, running_since=machine.opened_at)

    def forget(self, node: str) -> None:
        self._machines.pop(node, None)

    # -- decisions ------------------------------------------------------------------------------------------

    def decide(self, now: float, wall: datetime) -> list[Moved]:
        """Move every machine and the cluster to where they belong now; what moved, in order."""
        self._is_night = self.night.is_open(wall)
        moved: list[Moved] = []
        for name, machine in self._machines.items():
            while (after := self._next(machine, now)) is not machine.state:
                moved.append(self._move(name, machine, after, now))
        after = self._of_cluster(now)
        while after is not self.state:
            step = _towards(self.state, after)
            moved.append(Moved(None, self.state, step, TRANSITIONS[self.state][step]))
            self.state, self.since = step, now
        return moved

    def _next(self, machine: _Machine, now: float) -> GateState:
        """The next step on the way to where the machine belongs: never over a move that the table lacks."""
        return _towards(machine.state, self._belongs(machine, now))

    def _belongs(self, machine: _Machine, now: float) -> GateState:
        use = self._by_use(machine.used_at, now)
        if use.is_open and (now < machine.not_before or machine.holds.reasons(now)):
            return GateState.HELD
        return use

    def _by_use(self, used_at: float, now: float) -> GateState:
        """What the activity of people and the night say, were every machine free."""
        quiet = now - max(self._used_at, used_at)
        if self._busy > 0 or quiet < self.rules.active_s:
            return GateState.ACTIVE
        if self._is_night:
            return GateState.NIGHT
        if quiet < self.rules.idle_s:
            return GateState.COOLING
        return GateState.LONG_IDLE if quiet >= self.rules.long_s else GateState.IDLE

    def _of_cluster(self, now: float) -> GateState:
        use = self._by_use(-NEVER, now)
        if not use.is_open:
            return use
        open_here = [one.state for one in self._serving().values() if one.state.is_open]
        return max(open_here, key=_OPENNESS.index) if open_here else GateState.HELD

    def _serving(self) -> dict[str, _Machine]:
        """The machines where calls run; the master's own where there is no other."""
        return {name: one for name, one in self._machines.items() if name != HERE} or self._machines

    def _move(self, name: str, machine: _Machine, after: GateState, now: float) -> Moved:
        before = machine.state
        reason = TRANSITIONS[before][after]
        if after.is_open and not before.is_open:
            machine.opened_at = now
        elif before.is_open and not after.is_open:
            if after is not GateState.COOLING:  # the end of the night is no interruption
                self._back_off(machine, now)
            machine.opened_at = None
        if after is GateState.HELD:
            reason = "; ".join(self._held_by(machine, now)) or reason
        machine.state, machine.since = after, now
        return Moved(name, before, after, reason)

    def _back_off(self, machine: _Machine, now: float) -> None:
        """Pause after an interruption, and twice as long where the machine was open for a short while."""
        open_for = now - machine.opened_at if machine.opened_at is not None else NEVER
        least, most = self.rules.least_back_off_s, self.rules.most_back_off_s
        flaps = open_for < most
        machine.back_off_s = min(max(machine.back_off_s * 2, least), most) if flaps else least
        machine.not_before = now + machine.back_off_s

    # -- when to look again ---------------------------------------------------------------------------------

    def next_due(self, now: float, wall: datetime) -> float:
        """Seconds until time alone may move something; infinite where only an event can."""
        due = [NEVER]
        if (change := self.night.changes_at(wall)) is not None:
            due.append((change - wall).total_seconds())
        if self._busy == 0:
            for used_at in {max(self._used_at, one.used_at) for one in self._machines.values()} | {
                self._used_at
            }:
                quiet = now - used_at
                rules = self.rules
                steps = (rules.active_s, rules.idle_s, rules.long_s, 2 * rules.long_s)
                due += [after - quiet for after in steps if after > quiet]
        for machine in self._machines.values():
            if machine.not_before > now:
                due.append(machine.not_before - now)
            if machine.state.is_open:
                due.append(machine.holds.sampled_at + STALE_S - now)
        return max(min(due), 0.0)

    # -- words ----------------------------------------------------------------------------------------------

    @property
    def busy(self) -> int:
        """How many interactive things run."""
        return self._busy

    def quiet_s(self, now: float) -> float:
        """How long nobody has used the council."""
        return 0.0 if self._busy else max(now - self._used_at, 0.0)

    def machines(self) -> dict[str, HostHolds]:
        """What is known of each machine."""
        return {name: one.holds for name, one in self._machines.items()}

    def verdict(self, now: float, wall: datetime, node: str | None = None, *, long: bool = False) -> Verdict:
        """Whether work (`long`: long work) may run on a machine, or anywhere; as of the last `decide`."""
        machine = self._machines.get(node) if node is not None else None
        if node is not None and machine is None:
            return Verdict(False, GateState.HELD, f"waiting: nothing is known of {node} yet")
        state = machine.state if machine is not None else self.state
        used_at = max(self._used_at, machine.used_at) if machine is not None else self._used_at
        soon = self._people_come_soon(now - used_at) if long and state is GateState.LONG_IDLE else None
        if soon is not None:
            return soon
        if state in (GateState.NIGHT, GateState.LONG_IDLE) or (state is GateState.IDLE and not long):
            return Verdict(True, state, f"open: {self._why_open(state, now - used_at, wall)}", 0.0)
        waits: list[str] = []
        wait_s: float | None = None
        quiet = now - used_at
        if self._busy > 0:
            wait_s = NEVER  # so long that no pause is worth telling
            waits.append(
                "an interactive call runs" if self._busy == 1 else f"{self._busy} interactive calls run"
            )
        if not self._is_night or quiet < self.rules.active_s:
            until = self.rules.long_s if long else self.rules.idle_s
            until = self.rules.active_s if self._is_night else until
            if quiet < until and self._busy == 0:
                wait_s = until - quiet
                what = "long idle" if long and not self._is_night else "idle"
                waits.append(f"{_seconds(wait_s)} until {what}")
        waits += (
            self._about_all(now, wait_s or 0.0) if machine is None else self._held_by(machine, now, wait_s)
        )
        if machine is not None and machine.not_before > now:
            wait_s = max(wait_s or 0.0, machine.not_before - now)
        told_s = wait_s if wait_s != NEVER else None
        return Verdict(False, state, f"waiting: {'; '.join(waits) or 'the next look'}", told_s)

    def _people_come_soon(self, quiet: float) -> Verdict | None:
        """Long work does not begin shortly before people usually come, unless they stay away as it seems."""
        expected_s = self.expected_use_s
        if expected_s is None or expected_s >= SOON_S or quiet >= 2 * self.rules.long_s:
            return None
        when = "at this hour" if expected_s <= 0 else f"in {_seconds(expected_s)}"
        wait_s = 2 * self.rules.long_s - quiet
        return Verdict(
            False,
            GateState.LONG_IDLE,
            f"waiting: people usually come {when}; {_seconds(wait_s)} until they seem to stay away",
            wait_s,
        )

    def _why_open(self, state: GateState, quiet: float, wall: datetime) -> str:
        if state is GateState.NIGHT:
            until = self.night.changes_at(wall)
            return f"the night's window, until {until:%H:%M}" if until else "the night's window, all day"
        return f"nothing interactive for {_seconds(quiet)}"

    def _about_all(self, now: float, wait_s: float) -> list[str]:
        """What holds the machines, where it holds all of them."""
        if not self._machines:
            return ["no machine has told its CPU and memory yet"]
        about = {name: self._held_by(one, now, wait_s) for name, one in self._serving().items()}
        if not all(about.values()):
            return []
        if len(about) == 1:
            return next(iter(about.values()))
        told = [f"{name}: {' and '.join(why)}" for name, why in about.items()]
        return told[:3] + ([f"and {len(told) - 3} more machines"] if len(told) > 3 else [])

    def _held_by(self, machine: _Machine, now: float, wait_s: float | None = None) -> list[str]:
        """What holds a machine; of a pause only where it lasts longer than the wait that is told anyway."""
        reasons = machine.holds.reasons(now)
        if not reasons and machine.not_before - now > (wait_s or 0.0):
            return [f"{_seconds(machine.not_before - now)} of pause after it was interrupted"]
        return reasons


# Where a move that was slept through leads by.
_BETWEEN = {
    GateState.ACTIVE: GateState.COOLING,
    GateState.COOLING: GateState.IDLE,
    GateState.IDLE: GateState.ACTIVE,
    GateState.LONG_IDLE: GateState.ACTIVE,
}


def _towards(state: GateState, goal: GateState) -> GateState:
    """One move of the table towards `goal`."""
    return goal if goal is state or goal in TRANSITIONS[state] else _BETWEEN[state]


def _seconds(seconds: float) -> str:
    if seconds < 600:
        return f"{max(seconds, 0.0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
