"""What this machine is busy with: CPU, RAM, load, disk, and chosen processes."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def system_health(data_dir: Path, processes: Mapping[str, list[int]] | None = None) -> dict[str, Any]:
    """One sample. Percentages are 0 to 100 since the last call; sizes are bytes.

    `processes` names groups of process ids on this machine (an engine and its children); a process that is
    gone or may not be looked at counts as nothing.
    """
    memory = psutil.virtual_memory()
    return {
        "cpu": {"percent": psutil.cpu_percent(None), "count": psutil.cpu_count() or 1},
        "memory": {"total": memory.total, "available": memory.available, "percent": memory.percent},
        "load": list(psutil.getloadavg()),
        "disk": _disk(data_dir),
        "process": _usage([psutil.Process().pid]),
        "engines": {name: _usage(pids) for name, pids in (processes or {}).items()},
    }


def network_cards() -> list[dict[str, str]]:
    """`address` and `mac` of every card of this machine that has both: by its MAC a sleeping PC is woken."""
    found: list[dict[str, str]] = []
    for addresses in psutil.net_if_addrs().values():
        macs = [one.address for one in addresses if one.family == psutil.AF_LINK]
        macs = [mac for mac in macs if mac.strip("0:-")]
        found += [
            {"address": one.address.partition("%")[0], "mac": macs[0]}
            for one in addresses
            if macs and one.family in (socket.AF_INET, socket.AF_INET6)
        ]
    return found


def _disk(folder: Path) -> dict[str, Any]:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    disk = psutil.disk_usage(str(existing))
    return {"path": str(existing), "total": disk.total, "free": disk.free, "percent": disk.percent}


def _usage(pids: list[int]) -> dict[str, Any]:
    resident, seconds, found = 0, 0.0, 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                resident += process.memory_info().rss
                seconds += times.user + times.system
            found += 1
        except psutil.Error:
            continue
    return {"processes": found, "resident_bytes": resident, "cpu_seconds": round(seconds, 2)}
