"""Fetch one GGUF file from the model hub into a models folder, as a process of its own.

    python -m worker_node.hub_download MODEL --folder DIR

A process, because the hub's library takes memory that an idle node should not hold, blocks, and cannot be
cancelled; this can be killed at any moment, and the next one goes on where it stopped. Standard output is
NDJSON, `{"status", "completed", "total"}` (bytes) and last `{"status": "success"}` or `{"error": problem}`.
It ends when its standard input closes. `HF_ENDPOINT` names another hub, `HF_TOKEN` a login there.

Parts lie in `DIR/.fetching`; a file appears in `DIR` whole, with its SHA-256 verified, or not at all: one of
which neither the catalogue nor the hub states the SHA-256 is not fetched.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, Final

from common.errors import (
    ConflictError,
    CouncilError,
    DownloadFailedError,
    StorageFullError,
)
from common.gguf_catalogue import GgufSource, require_source
from worker_node.file_lock import locked
from worker_node.gguf_header import read_header
from worker_node.hub import Progress, RemoteFile, Tell, ask, endpoint, transfer, translated

PARTS_FOLDER: Final = ".fetching"
_HASH_BLOCK: Final = 1 << 20
_SPARE_BYTES: Final = 64 * 1024 * 1024  # what must stay free on the disk


def main(arguments: list[str] | None = None) -> int:
    """Run to the end; returns the exit code: 0 the model is there, 1 it is not (the last line says why)."""
    parser = argparse.ArgumentParser(prog="hub_download", description="Fetch a GGUF file from the hub.")
    parser.add_argument("model", help="name in the catalogue, or hf:OWNER/REPO/FILE.gguf")
    parser.add_argument("--folder", type=Path, required=True, help="the models folder")
    options = parser.parse_args(arguments)
    threading.Thread(target=_end_with_parent, daemon=True, name="parent-watch").start()
    # Before the library is imported: it reads these once. Its own transfer cannot go on after a kill.
    os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")
    try:
        try:
            fetch(require_source(options.model), options.folder, _print_line)
        except CouncilError as error:
            _print_line({"error": error.to_problem()})
            return 1
        _print_line({"status": "success"})
    except BrokenPipeError:
        return 1  # nobody listens any more
    return 0


def fetch(source: GgufSource, folder: Path, tell: Tell) -> None:
    """Bring a model into the folder, telling the progress. Raises what `common.errors` has for a failure."""
    tell({"status": f"{source.name}: licence {source.licence}, {source.licence_url}",
          "licence": source.licence, "total": source.size})  # fmt: skip
    try:
        parts = folder / PARTS_FOLDER
        parts.mkdir(parents=True, exist_ok=True)
        lock = parts / f"{source.local_file}.lock"
        with locked(
            lock, timeout_s=None, on_wait=lambda: tell({"status": "another download of it is running"})
        ):
            if not _is_there(source, folder, tell):
                _fetch_locked(source, folder, parts, tell)
    except (CouncilError, BrokenPipeError):
        raise
    except Exception as error:  # the hub's library raises those of whichever HTTP client it is built on
        raise translated(error, source, folder) from error


def _is_there(source: GgufSource, folder: Path, tell: Tell) -> bool:
    """Whether the catalogue's file is in the folder already, which needs no hub."""
    path = folder / source.local_file
    if source.sha256 is None or not path.is_file():
        return False
    tell({"status": "verifying what is there", "total": path.stat().st_size})
    if _sha256_of(path) != source.sha256:
        raise _other_file(path)
    return True


def _fetch_locked(source: GgufSource, folder: Path, parts: Path, tell: Tell) -> None:
    tell({"status": f"asking {endpoint()}"})
    remote = [ask(source, file) for file in source.files]
    missing = [one for one in remote if not _is_same(one, folder / one.local_name, tell)]
    paths = {one: parts / f"{one.local_name}.{one.sha256[:16]}.part" for one in missing}
    for one in missing:
        for old in parts.glob(f"{one.local_name}.*.part"):
            if old != paths[one]:
                old.unlink()  # of an older version on the hub
    total = sum(one.size for one in missing)
    have = sum(_size(path) for path in paths.values())
    _require_space(folder, total - have, source)
    progress = Progress(tell, f"fetching {source.name}", total)
    for one in missing:
        transfer(one, paths[one], progress)
    for one in missing:
        _verify(one, paths[one], source, tell)
    # llama.cpp opens a model by its first part, so that one comes last.
    for one in reversed(missing):
        paths[one].replace(folder / one.local_name)


def _is_same(remote: RemoteFile, path: Path, tell: Tell) -> bool:
    if not path.is_file():
        return False
    if path.stat().st_size == remote.size:
        tell({"status": "verifying what is there", "total": remote.size})
        if _sha256_of(path) == remote.sha256:
            return True
    raise _other_file(path)


def _other_file(path: Path) -> ConflictError:
    return ConflictError(f"{path} is there and is another file, or damaged; delete it first")


def _require_space(folder: Path, needed: int, source: GgufSource) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise StorageFullError(
            f"{source.name} needs {needed / 1e9:.2f} GB more in {folder}, and {free / 1e9:.2f} GB are free",
            model=source.name,
        )


def _verify(remote: RemoteFile, path: Path, source: GgufSource, tell: Tell) -> None:
    tell({"status": "verifying the checksum", "completed": remote.size, "total": remote.size})
    if _sha256_of(path) != remote.sha256:
        path.unlink()
        raise DownloadFailedError(
            f"what came for {remote.local_name} has the wrong checksum and was deleted; try again",
            model=source.name,
        )
    try:
        read_header(path)
    except ValueError as error:
        path.unlink()
        raise DownloadFailedError(f"{remote.file} of {source.repository} is no GGUF file") from error


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    """Leave when standard input closes, as it does however the parent dies; what came is on the disk."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
