"""The few facts that a listing needs from a GGUF file, read from its first bytes.

`gguf.GGUFReader` reads every token and tensor (a second for a large vocabulary); what is asked here stands
before the tokenizer in every file that llama.cpp's tools write.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_LONGEST_STRING = 1 << 20
_LONGEST_ARRAY = 1 << 16
_MOST_KEYS = 1 << 16

Value = str | int | float | bool | list[str | int | float | bool]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`context_length` is what the model was trained for, 0 where the file does not say."""

    architecture: str
    context_length: int
    tags: tuple[str, ...]
    pools: bool

    @property
    def only_embeds(self) -> bool:
        """Whether this is an encoder, which cannot generate."""
        return self.pools or "bert" in self.architecture or self.architecture == "t5encoder"


def read_header(path: Path) -> GgufHeader:
    """Read a file's header. Raises `ValueError` for what is no GGUF header, `OSError` as `open` does."""
    try:
        with path.open("rb") as file:
            facts = _read_facts(file)
    except (struct.error, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not a whole GGUF file") from error
    architecture = str(facts.get("general.architecture", ""))
    context_length = facts.get(f"{architecture}.context_length", 0)
    tags = facts.get("general.tags", [])
    return GgufHeader(
        architecture=architecture,
        context_length=context_length if isinstance(context_length, int) else 0,
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
        pools=bool(facts.get(f"{architecture}.pooling_type", 0)),
    )


def _read_facts(file: BinaryIO) -> dict[str, Value]:
    if file.read(4) != _MAGIC:
        raise ValueError("the file does not begin with GGUF")
    version, _tensors, keys = struct.unpack("<IQQ", _exactly(file, 20))
    if version not in (2, 3) or keys > _MOST_KEYS:
        raise ValueError(f"GGUF version {version} with {keys} keys is not known here")
    facts: dict[str, Value] = {}
    for _ in range(keys):
        key = _string(file)
        if key.startswith("tokenizer."):
            break
        (kind,) = struct.unpack("<I", _exactly(file, 4))
        facts[key] = _value(file, kind)
    return facts


def _value(file: BinaryIO, kind: int) -> Value:
    if kind != _ARRAY:
        return _single(file, kind)
    kind, count = struct.unpack("<IQ", _exactly(file, 12))
    if count > _LONGEST_ARRAY:
        raise ValueError(f"an array of {count} entries before the tokenizer")
    return [_single(file, kind) for _ in range(count)]


def _single(file: BinaryIO, kind: int) -> str | int | float | bool:
    if kind == _STRING:
        return _string(file)
    if kind not in _SCALARS:
        raise ValueError(f"unknown value type {kind}")
    form = _SCALARS[kind]
    value: int | float | bool = struct.unpack(form, _exactly(file, struct.calcsize(form)))[0]
    return value


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    if length > _LONGEST_STRING:
        raise ValueError(f"a string of {length} bytes before the tokenizer")
    return _exactly(file, length).decode("utf-8", "replace")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data
