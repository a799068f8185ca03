"""The machine under the node, for `/health/system`. Blocking calls: run in a thread."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil

_FIND_PROCESSES_EVERY_S = 10.0


class Host:
    """CPU, memory, load and disk, and the processes of the engines. Sizes in bytes, shares in percent.

    CPU shares are those since the previous call, so the first call tells 0.
    """

    def __init__(self, data_dir: Path) -> None:
        self._disk_path = _existing(data_dir)
        self._processes: dict[int, psutil.Process] = {}
        self._found: dict[str, tuple[float, list[int]]] = {}
        self._own = psutil.Process()

    def snapshot(self, engines: dict[str, Any]) -> dict[str, Any]:
        """`engines` maps a name to a function that returns its process ids on this machine."""
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._disk_path))
        return {
            "cpu": {"count": psutil.cpu_count() or 1, "percent": psutil.cpu_percent()},
            "memory": {
                "total": memory.total,
                "available": memory.available,
                "used": memory.used,
                "percent": memory.percent,
            },
            "load": list(psutil.getloadavg()),
            "disk": {
                "path": str(self._disk_path),
                "total": disk.total,
                "free": disk.free,
                "percent": disk.percent,
            },
            "process": self._describe(self._own),
            "engines": [
                {"name": name, "processes": self._of_engine(name, find)} for name, find in engines.items()
            ],
        }

    def _of_engine(self, name: str, find: Any) -> list[dict[str, Any]]:
        found_at, pids = self._found.get(name, (float("-inf"), []))
        if time.monotonic() - found_at > _FIND_PROCESSES_EVERY_S:
            pids = find()
            self._found[name] = (time.monotonic(), pids)
        described = []
        for pid in pids:
            try:
                process = self._processes.setdefault(pid, psutil.Process(pid))
                described.append(self._describe(process))
            except psutil.Error:
                self._processes.pop(pid, None)
        return described

    def _describe(self, process: psutil.Process) -> dict[str, Any]:
        with process.oneshot():
            return {
                "pid": process.pid,
                "name": process.name(),
                "rss": process.memory_info().rss,
                "cpu_percent": process.cpu_percent(),
            }


def _existing(path: Path) -> Path:
    """The path or its nearest parent that exists: the data folder may not have been made yet."""
    path = Path(os.path.abspath(path))
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
