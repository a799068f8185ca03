"""One archive file whose manifest names, counts and hashes what is in it; written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import InvalidRequestError, StorageFullError

FORMAT = 1
_MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_MOST_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files`: path in the data folder → bytes and SHA-256; `counts`: rows by table; `database`: `sqlite` or
    `postgresql`; `created_at`: ISO 8601, UTC.
    """

    created_at: str
    version: str
    database: str
    revision: str | None
    counts: Mapping[str, int]
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "created_at": self.created_at,
            "version": self.version,
            "database": self.database,
            "revision": self.revision,
            "counts": dict(self.counts),
            "files": {name: dict(about) for name, about in self.files.items()},
        }


def write(target: Path, manifest: Manifest, files: Mapping[str, Path]) -> Manifest:
    """Write the files (path in the archive → where it is) with their manifest, readable by the owner only.

    Returns the manifest with sizes and hashes. Raises `StorageFullError`; then nothing is left behind.
    """
    told = {
        name: {"bytes": path.stat().st_size, "sha256": _hash_of(path)} for name, path in sorted(files.items())
    }
    whole = Manifest(
        manifest.created_at, manifest.version, manifest.database, manifest.revision, manifest.counts, told
    )
    part = target.with_name(f"{target.name}.part")
    try:
        handle = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as raw:
            with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3) as archive:
                _add_bytes(archive, _MANIFEST, json.dumps(whole.to_json(), indent=1).encode())
                for name, path in sorted(files.items()):
                    entry = archive.gettarinfo(str(path), arcname=name)
                    entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0o600, 0, 0, "", ""
                    with path.open("rb") as content:
                        archive.addfile(entry, content)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageFullError(f"cannot write {target} ({error.strerror or error})") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return whole


@contextmanager
def opened(source: Path) -> Iterator[tuple[Manifest, tarfile.TarFile]]:
    """The archive for reading. Raises `InvalidRequestError` when it is none of ours, or damaged."""
    try:
        with tarfile.open(source, mode="r:gz") as archive:
            yield _manifest_of(archive), archive
    except (OSError, EOFError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(f"{source} is no backup of a council, or damaged: {error}") from error


def extract(source: Path, folder: Path) -> Manifest:
    """Unpack into an empty folder, each file checked against the manifest. Raises `InvalidRequestError`."""
    with opened(source) as (manifest, archive):
        for name, about in manifest.files.items():
            target = folder.joinpath(*_safe(name).parts)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            member = archive.extractfile(name)
            if member is None:
                raise InvalidRequestError(f"{source}: {name} is no file")
            digest = hashlib.sha256()
            with os.fdopen(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as out:
                while chunk := member.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            if digest.hexdigest() != about["sha256"]:
                raise InvalidRequestError(f"{source}: {name} is damaged; take another backup")
    return manifest


def _manifest_of(archive: tarfile.TarFile) -> Manifest:
    member = archive.extractfile(_MANIFEST)
    if member is None:
        raise KeyError(_MANIFEST)
    told = json.loads(member.read(_MOST_MANIFEST_BYTES))
    if told["format"] != FORMAT:
        raise ValueError(f"its format is {told['format']}, which needs a newer lan-council")
    return Manifest(
        told["created_at"], told["version"], told["database"], told["revision"], told["counts"], told["files"]
    )


def _safe(name: str) -> PurePosixPath:
    """The path of a file inside the data folder. Raises `ValueError` for one that leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise ValueError(f"it names a file outside of the data folder, {name!r}")
    return path


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
