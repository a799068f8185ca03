"""The models folder: which GGUF files it holds, and what each can do. Blocking: call in a thread."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from common.gguf_catalogue import NAME_OF_FILE
from common.logs import get_logger
from worker_node.gguf_header import GgufHeader, read_header
from worker_node.practice import write_practice_models
from worker_node.practice_text import PRACTICE_TAG

log = get_logger(__name__)

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model of the folder. `size` is the bytes of all its parts; `stamp` changes with the file."""

    name: str
    path: Path
    size: int
    stamp: tuple[int, int]
    header: GgufHeader

    @property
    def practice(self) -> bool:
        return PRACTICE_TAG in self.header.tags

    @property
    def capabilities(self) -> list[str]:
        if self.header.only_embeds:
            return ["embedding"]
        # A chat model's embeddings are poor, so a real one is not offered for them.
        return ["completion", "embedding"] if self.practice else ["completion"]


class GgufFolder:
    """The folder as it is now; headers are read once per file version."""

    def __init__(self, folder: Path, *, allow_practice: bool) -> None:
        self.folder = folder
        self._allow_practice = allow_practice
        self._headers: dict[tuple[Path, tuple[int, int]], GgufHeader | None] = {}

    def scan(self) -> dict[str, GgufModel]:
        """The models by name. Practice models are written, and listed, only while nothing else can answer.

        Raises `OSError` where the folder cannot be read.
        """
        real, practice = self._split()
        if any(not model.header.only_embeds for model in real.values()) or not self._allow_practice:
            return real
        if not practice:
            try:
                write_practice_models(self.folder)
            except (OSError, TimeoutError) as error:
                log.warning("practice models cannot be written", folder=str(self.folder), error=str(error))
            _, practice = self._split()
        return real | practice

    def _split(self) -> tuple[dict[str, GgufModel], dict[str, GgufModel]]:
        real: dict[str, GgufModel] = {}
        practice: dict[str, GgufModel] = {}
        for path in sorted([*self.folder.glob("*.gguf"), *self.folder.glob("*/*.gguf")]):
            model = self._model(path)
            if model is not None:
                (practice if model.practice else real).setdefault(model.name, model)
        return real, practice

    def _model(self, path: Path) -> GgufModel | None:
        part = _PART.search(path.stem)
        if path.stem.startswith("mmproj") or (part is not None and int(part[1]) != 1):
            return None  # an image projector, or a later part: llama.cpp finds it by the first
        try:
            stat = path.stat()
            parts = path.parent.glob(f"{_PART.sub('', path.stem)}-*-of-{part[2]}.gguf") if part else [path]
            size = sum(one.stat().st_size for one in parts)
        except OSError:
            return None  # gone since it was listed
        stamp = (stat.st_mtime_ns, stat.st_size)
        key = (path, stamp)
        if key not in self._headers:
            self._headers = {known: header for known, header in self._headers.items() if known[0] != path}
            self._headers[key] = _header(path)
        header = self._headers[key]
        if header is None:
            return None
        return GgufModel(_name_of(path), path, size, stamp, header)

    def damaged(self, name: str) -> Path | None:
        """The file of this name that was left out of the listing because its header cannot be read."""
        for (path, _), header in self._headers.items():
            if header is None and _name_of(path) == name and path.exists():
                return path
        return None


def _name_of(path: Path) -> str:
    """What the model is called: as in the catalogue where that has the file, else as the file."""
    return NAME_OF_FILE.get(path.name.lower()) or _PART.sub("", path.stem)


def _header(path: Path) -> GgufHeader | None:
    try:
        return read_header(path)
    except (OSError, ValueError) as error:
        log.warning("a GGUF file cannot be read and is not offered", file=str(path), error=str(error))
        return None
