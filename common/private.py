"""Files for the eyes of their owner alone, on systems whose files have an access list instead of a mode.

On POSIX a mode says it when a file is made, and nothing here does anything. On Windows a file has the list of
its folder, and outside a user's profile that lets every user of the PC read.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

_SYSTEM = "*S-1-5-18"  # backups and services of the system; its name differs by language
_WITHIN_S = 20.0


def commands(path: Path, user: str, *, is_folder: bool) -> list[list[str]]:
    """What gives a file, or a folder and all that is in it, to `user` alone.

    Two commands, in this order: what is refused (an unknown user) must not leave a file that nobody may read.
    """
    icacls = os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "icacls.exe")
    grants = [f"{who}:{_rights(is_folder=is_folder)}" for who in (user, _SYSTEM)]
    return [[icacls, str(path), "/grant:r", *grants, "/q"], [icacls, str(path), "/inheritance:r", "/q"]]


def _rights(*, is_folder: bool) -> str:
    return "(OI)(CI)F" if is_folder else "F"


@lru_cache(maxsize=64)
def keep_private(
    path: Path,
    *,
    windows: bool = sys.platform == "win32",
    run: Callable[..., object] = subprocess.run,
) -> None:
    """Let nobody else read what is at `path`, once in the life of a program. Where that fails, it says so.

    A home folder, and what a home folder is in, is left as it is.
    """
    if not windows:
        return
    flags = {"creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
    try:
        if Path.home().is_relative_to(path.resolve()):
            return
        for command in commands(path, _user(), is_folder=path.is_dir()):
            run(command, check=True, capture_output=True, timeout=_WITHIN_S, **flags)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        from common.logs import get_logger  # late: who only trusts needs the standard library alone

        get_logger(__name__).warning(
            "other users of this PC may be able to read this; give it to yourself alone",
            path=str(path),
            reason=str(error),
            by=f'icacls "{path}" /inheritance:r /grant:r "YOUR-NAME:{_rights(is_folder=path.is_dir())}"',
        )


def _user() -> str:
    """This user, as `icacls` takes it. Raises `OSError` where the system does not say."""
    try:
        name = getpass.getuser()
    except (ImportError, KeyError) as error:  # what Python before 3.13 raises
        raise OSError("this system does not say who its user is") from error
    domain = os.environ.get("USERDOMAIN")
    return f"{domain}\\{name}" if domain else name
