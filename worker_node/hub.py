"""What is asked of the model hub: a file's size, checksum and bytes. Blocking, and only in `hub_download`.

`huggingface_hub` knows the addresses, the log-in and the hub's answers. It is imported late: it reads its
settings from the environment at import.
"""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.errors import (
    CouncilError,
    DownloadFailedError,
    ForbiddenError,
    ModelNotFoundError,
    StorageFullError,
)
from common.gguf_catalogue import GgufSource

_PROGRESS_S: Final = 0.25
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_CONNECTION = frozenset({"TransportError", "ConnectionError", "RequestException", "TimeoutError"})

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as the hub has it now, and the checksum that it must have: the catalogue's or the hub's."""

    file: str
    url: str
    sha256: str
    size: int

    @property
    def local_name(self) -> str:
        return self.file.rpartition("/")[2]


def ask(source: GgufSource, file: str) -> RemoteFile:
    """What the hub has under that name now; its ETag is the SHA-256 of every large file.

    Raises `DownloadFailedError`, also where nothing says what the file must be, or what the library raises.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    found = get_hf_file_metadata(hf_hub_url(source.repository, file))
    if found.size is None:
        raise DownloadFailedError(f"{endpoint()} does not tell the size of {file}", model=source.name)
    told = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
    sha256 = source.sha256 or told
    if sha256 is None:
        raise DownloadFailedError(
            f"{endpoint()} states no SHA-256 of {file}, so what would come cannot be verified and is not "
            "fetched; a file that you trust can be copied into the models folder by hand",
            model=source.name,
        )
    if told not in (None, sha256):
        raise DownloadFailedError(
            f"{source.repository} holds another {file} than the one of the catalogue; to take it all "
            f"the same: hf:{source.repository}/{file}",
            model=source.name,
        )
    # The same version for every part and every later attempt.
    return RemoteFile(
        file, hf_hub_url(source.repository, file, revision=found.commit_hash), sha256, found.size
    )


class Progress:
    """Counts bytes over all files and tells them now and then."""

    def __init__(self, tell: Tell, status: str, total: int) -> None:
        self._tell = tell
        self._status = status
        self._total = total
        self._done = 0
        self._told_at = float("-inf")

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._told_at >= _PROGRESS_S or self._done == self._total:
            self._told_at = now
            self._tell({"status": self._status, "completed": self._done, "total": self._total})


class _CountedFile(io.FileIO):
    """A file that tells what is written, and takes all of it: a raw write may be short."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path, "r+" if path.exists() else "w+")
        self._progress = progress

    def write(self, data: Any, /) -> int:
        left = memoryview(data)
        while left:
            count = super().write(left)
            self._progress.add(count)
            left = left[count:]
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        before = os.fstat(self.fileno()).st_size
        after = super().truncate(size)
        self._progress.add(after - before)
        return after


def transfer(remote: RemoteFile, path: Path, progress: Progress) -> None:
    """Append what is missing, in requests for the rest of the file."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, says its reference

    have = path.stat().st_size if path.exists() else 0
    if have > remote.size:
        path.unlink()
        have = 0
    progress.add(have)
    with _CountedFile(path, progress) as file:
        file.seek(have)
        if have < remote.size:
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            http_get(remote.url, file, resume_size=have, headers=headers, expected_size=remote.size)
        os.fsync(file.fileno())


def endpoint() -> str:
    """The address of the hub."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def translated(error: Exception, source: GgufSource, folder: Path) -> CouncilError:
    """One of our errors for whatever the library, its HTTP client or the disk raised."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    place = f"{source.repository}/{source.file}"
    by_hand = f"copy a GGUF file into {folder}"
    if isinstance(error, GatedRepoError):
        return ForbiddenError(
            f"{source.repository} asks for its licence to be accepted at {source.licence_url}; then set "
            f"HF_TOKEN where the node runs, or {by_hand}",
            model=source.name,
        )
    if isinstance(error, RepositoryNotFoundError | EntryNotFoundError):
        return ModelNotFoundError(f"{endpoint()} has no {place}", model=source.name)
    if isinstance(error, HfHubHTTPError):
        return DownloadFailedError(
            f"{endpoint()} answered {error.response.status_code} for {place}; try again later, or {by_hand}",
            model=source.name,
        )
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OfflineModeIsEnabled) or names & _NO_CONNECTION:
        return DownloadFailedError(
            f"no connection to {endpoint()}; {by_hand}, or try again: what came is kept", model=source.name
        )
    if isinstance(error, OSError) and error.errno is not None:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        why = "the disk is full" if full else error.strerror
        return StorageFullError(f"{folder} cannot be written: {why}", model=source.name)
    return DownloadFailedError(
        f"{place} did not come whole ({_first_line(error)}); try again: it goes on where it stopped",
        model=source.name,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
