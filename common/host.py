"""What this machine is busy with: CPU, RAM, load, disk, and chosen processes."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil


def system_health(
    data_dir: Path,
    processes: Mapping[str, list[int]] | None = None,
    exclusive: Iterable[str] = (),
) -> dict[str, Any]:
    """One sample. Percentages are 0 to 100 since the last call; sizes are bytes; `busy_seconds` is what all
    cores together have worked since the start of the machine.

    `processes` names groups of process ids on this machine (an engine and its children); a process that is
    gone or may not be looked at counts as nothing. `exclusive` names programs that background work leaves
    alone; those that run are told.
    """
    memory = psutil.virtual_memory()
    return {
        "cpu": {
            "percent": psutil.cpu_percent(None),
            "count": psutil.cpu_count() or 1,
            "busy_seconds": _busy_seconds(),
        },
        "memory": {"total": memory.total, "available": memory.available, "percent": memory.percent},
        "load": list(psutil.getloadavg()),
        "disk": _disk(data_dir),
        "process": {"pid": psutil.Process().pid, **_usage([psutil.Process().pid])},
        "engines": {name: _usage(pids) for name, pids in (processes or {}).items()},
        "battery": _battery(),
        "exclusive": running(exclusive),
    }


def running(names: Iterable[str]) -> list[str]:
    """Those of the programs that run on this machine; `blender` is also `blender.exe`, in any case."""
    wanted = {name.lower().removesuffix(".exe"): name for name in names}
    if not wanted:
        return []
    # Looking through all processes takes milliseconds for each hundred of them: only where it is asked for.
    seen = {(one.info["name"] or "").lower().removesuffix(".exe") for one in psutil.process_iter(["name"])}
    return [name for key, name in wanted.items() if key in seen]


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    # Time that guests took is in `user` as well, and waiting for a disk is no work.
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return round(sum(times) - idle - guests, 2)


def _battery() -> dict[str, Any] | None:
    """`None` without one, or where the system tells of none."""
    try:
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    except (OSError, psutil.Error, NotImplementedError):
        return None
    if battery is None:
        return None
    return {"percent": battery.percent, "plugged": battery.power_plugged}


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
    resident, private, seconds, found = 0, 0, 0.0, 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                memory = process.memory_info()
                resident += memory.rss
                # Pages of files (a model's weights) are the system's to take back: they count as available.
                private += memory.rss - getattr(memory, "shared", 0)
                seconds += times.user + times.system
            found += 1
        except psutil.Error:
            continue
    return {
        "processes": found,
        "resident_bytes": resident,
        "private_bytes": private,
        "cpu_seconds": round(seconds, 2),
    }


def own_use() -> dict[str, float]:
    """What this process has taken so far: `cpu_seconds`, and `private_bytes` of memory."""
    used = _usage([psutil.Process().pid])
    return {"cpu_seconds": used["cpu_seconds"], "private_bytes": used["private_bytes"]}
