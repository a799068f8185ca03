"""One master per data folder: a lock that the operating system gives back when its holder dies."""

from __future__ import annotations

import os
import sys
from io import FileIO
from pathlib import Path

from common.errors import SettingsError, StorageFullError


class DataLock:
    """An exclusive lock on a file that holds its owner's process id. kill -9 releases it as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises `SettingsError` that names the process which holds it, and `StorageFullError` where the file
        cannot be written.
        """
        try:
            # Held open as long as the lock. Unbuffered: a full disk would refuse the rest at `close` again.
            file = open(self._path, "a+b", buffering=0)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._take(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _take(self, file: FileIO) -> None:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:  # POSIX and Windows, in this order
            file.seek(0)
            holder = file.read(64).decode(errors="replace").strip() or "unknown"
            raise SettingsError(
                f"another master (process {holder}) uses {self._path.parent}; stop that one, talk to it with "
                "`council ask --url URL`, or start this one with another --data-dir"
            ) from error
        except OSError as error:
            raise SettingsError(
                f"files in {self._path.parent} cannot be locked ({error.strerror}); choose a --data-dir on a "
                "disk of this machine"
            ) from error
        try:
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()).encode())
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StorageFullError:
        return StorageFullError(
            f"cannot write in {self._path.parent} ({error.strerror}); free some space, or choose another "
            "--data-dir"
        )

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


if sys.platform == "win32":
    import msvcrt

    def _lock(file: FileIO) -> None:
        file.seek(1 << 30)  # beyond the process id, which others have to read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
