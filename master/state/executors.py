"""Who runs jobs, and whether it lives: each executor holds a lock that its death gives back at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from common.errors import SettingsError
from master.state.data_lock import DataLock


class Liveness(Protocol):
    """Who runs jobs lives under an id that is used once; its death is seen by all others."""

    def hold(self, executor_id: str) -> None: ...

    def release(self, executor_id: str) -> None: ...

    def lives(self, executor_id: str) -> bool: ...


class Executors:
    """Locks of the operating system in a folder beside the database: for processes of one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, DataLock] = {}

    def hold(self, executor_id: str) -> None:
        """From now on this one lives, until `release` or the end of the process. Raises storage errors."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DataLock(self._path(executor_id))
        lock.acquire()
        self._held[executor_id] = lock

    def release(self, executor_id: str) -> None:
        lock = self._held.pop(executor_id, None)
        if lock is not None:
            lock.release()
            with contextlib.suppress(OSError):
                self._path(executor_id).unlink(missing_ok=True)

    def lives(self, executor_id: str) -> bool:
        """Whether it holds its lock. Ids are used once, so that one who is dead stays dead."""
        path = self._path(executor_id)
        if executor_id in self._held:
            return True
        if not path.exists():
            return False
        lock = DataLock(path)
        try:
            lock.acquire()
        except SettingsError:
            return True
        lock.release()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return False

    def _path(self, executor_id: str) -> Path:
        return self._folder / f"{executor_id}.lock"
