"""One master per data folder: a lock that the operating system gives back when its holder dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from common.errors import SettingsError, StorageFullError


class DataLock:
    """`acquire` raises `SettingsError` that names the process which holds the folder."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "master.lock"
        self._file: BinaryIO | None = None

    def acquire(self) -> None:
        try:
            file = open(self._path, "a+b")  # held open as long as the lock
        except OSError as error:
            raise StorageFullError(
                f"cannot write in {self._path.parent} ({error.strerror}); choose another --data-dir"
            ) from error
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            holder = file.read(64).decode(errors="replace").strip() or "unknown"
            file.close()
            raise SettingsError(
                f"another master (process {holder}) uses {self._path.parent}; stop that one, use it with "
                "`council ask --url`, or choose another --data-dir"
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()).encode())
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        file.seek(1 << 30)  # beyond the process id, which others have to read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
