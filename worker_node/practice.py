"""The practice models as files: written when a node has nothing else to run, and known again later.

They make every part of the product work on a fresh machine: real llama.cpp, real streaming, real grammars,
real token counts. What they say means nothing, and everything that shows it says so.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from worker_node.file_lock import locked
from worker_node.gguf_header import read_header
from worker_node.practice_text import PRACTICE_TAG, TEMPERAMENTS

FOLDER = "practice"
_LOCK_TIMEOUT_S = 30.0


def is_practice(path: Path) -> bool:
    """Whether this GGUF file was written here, by its own tag; wherever it was copied to."""
    try:
        return PRACTICE_TAG in read_header(path).tags
    except (OSError, ValueError):
        return False


def write_practice_models(models_dir: Path) -> list[Path]:
    """Write the practice models that are not there yet below `models_dir`; returns the paths of all.

    Safe to call from several processes at once: one writes, the others wait and find the files. Each file
    appears whole or not at all. Takes about 0.6 s the first time. Raises `OSError` where the folder cannot
    be written, and `TimeoutError` when another process holds the lock for 30 s.
    """
    folder = models_dir / FOLDER
    paths = {folder / f"{one.name}.gguf": one for one in TEMPERAMENTS}
    if all(path.is_file() for path in paths):
        return list(paths)
    # NumPy and gguf take 0.1 s to import, which a node with real models never pays.
    from worker_node.practice_model import write_gguf

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", timeout_s=_LOCK_TIMEOUT_S):
        for left_over in folder.glob("*.part"):  # of a writer that was killed: we hold the lock now
            left_over.unlink(missing_ok=True)
        for path, temperament in paths.items():
            if path.is_file():
                continue
            part = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part")
            try:
                write_gguf(part, temperament)
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    return list(paths)
