"""The gate as the API shows it: states, reasons in words, figures, and what is waited for."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from master.background.gate import Gate
from master.background.pattern import Pattern, expected_quiet_s, usual_times


def gate_status(
    gate: Gate, pattern: Pattern, *, now: float | None = None, wall: datetime | None = None
) -> dict[str, Any]:
    """`now`: monotonic seconds, `wall`: aware; this moment where they are left out."""
    now = time.monotonic() if now is None else now
    wall = datetime.now().astimezone() if wall is None else wall
    verdict, long = gate.verdict(now, wall), gate.verdict(now, wall, long=True)
    changes_at = gate.night.changes_at(wall)
    rules = gate.rules
    return {
        "state": str(verdict.state),
        "open": verdict.open,
        "reason": verdict.reason,
        "wait_s": _rounded(verdict.wait_s),
        "open_for_long_jobs": long.open,
        "reason_for_long_jobs": long.reason,
        "since_s": _rounded(now - gate.since),
        "quiet_s": _rounded(gate.quiet_s(now)),
        "interactive_calls": gate.busy,
        "night": {
            "enabled": gate.night.enabled,
            "open": gate.night.is_open(wall),
            "start": gate.night.start,
            "end": gate.night.end,
            "changes_at": changes_at.isoformat() if changes_at else None,
        },
        "habits": {
            "usual": usual_times(pattern.hours),
            "expected_quiet_s": _rounded(expected_quiet_s(wall, pattern.hours)),
            "hours_known": len(pattern.hours),
        },
        "limits": {
            "idle_s": rules.idle_s,
            "long_idle_s": rules.long_s,
            "max_cpu": rules.caps.max_cpu,
            "max_memory": rules.caps.max_memory,
            "on_battery": rules.caps.on_battery,
        },
        "nodes": [_of_machine(gate, name, now, wall) for name in gate.machines()],
    }


def _of_machine(gate: Gate, name: str, now: float, wall: datetime) -> dict[str, Any]:
    verdict = gate.verdict(now, wall, name)
    holds = gate.machines()[name]
    sample = holds.sample
    return {
        "node": name,
        "state": str(verdict.state),
        "open": verdict.open,
        "reason": verdict.reason,
        "wait_s": _rounded(verdict.wait_s),
        "foreign_cpu": _rounded(holds.cpu, 3),
        "foreign_memory": _rounded(sample.foreign_memory, 3) if sample else None,
        "free_memory": _rounded(sample.free_memory, 3) if sample else None,
        "on_battery": sample.on_battery if sample else False,
        "exclusive": list(sample.exclusive) if sample else [],
        "told_s_ago": _rounded(now - holds.sampled_at),
    }


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
