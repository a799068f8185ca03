"""The GGUF files of the recommended models: where each lies on the model hub, and how it is known again.

`council models get NAME` fetches one of these for the embedded engine. Sizes and checksums are those that the
hub states for the 4-bit files (Q4_K_M); a file is never taken that has another checksum.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.errors import ModelNotFoundError

HUB_PREFIX = "hf:"
_LLAMA_LICENCE = "Llama 3.2 Community License"
_LLAMA_LICENCE_URL = "https://www.llama.com/llama3_2/license/"
_HUB_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/(?P<file>(?:[\w.-]+/)*[\w-][\w.-]*\.gguf)"
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class GgufSource:
    """One GGUF file of the hub. `size` in bytes and `sha256` are `None` where only the hub knows them."""

    name: str
    repository: str
    file: str
    licence: str
    licence_url: str
    size: int | None = None
    sha256: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def local_file(self) -> str:
        """What the file is called in the models folder: its name on the hub, without folders."""
        return self.file.rpartition("/")[2]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file on the hub that makes up the model; llama.cpp finds later parts by the first."""
        part = _PART.search(self.file)
        if part is None:
            return (self.file,)
        stem, count = self.file[: part.start()], int(part[2])
        return tuple(f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))


CATALOGUE: tuple[GgufSource, ...] = (
    GgufSource(
        name="qwen2.5:0.5b",
        repository="bartowski/Qwen2.5-0.5B-Instruct-GGUF",
        file="Qwen2.5-0.5B-Instruct-Q4_K_M.gguf",
        size=397_808_192,
        sha256="6eb923e7d26e9cea28811e1a8e852009b21242fb157b26149d3b188f3a8c8653",
        licence="Apache-2.0",
        licence_url="https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct/blob/main/LICENSE",
    ),
    GgufSource(
        name="llama3.2:1b",
        repository="bartowski/Llama-3.2-1B-Instruct-GGUF",
        file="Llama-3.2-1B-Instruct-Q4_K_M.gguf",
        size=807_694_464,
        sha256="6f85a640a97cf2bf5b8e764087b1e83da0fdb51d7c9fab7d0fece9385611df83",
        licence=_LLAMA_LICENCE,
        licence_url=_LLAMA_LICENCE_URL,
    ),
    GgufSource(
        name="gemma2:2b",
        repository="bartowski/gemma-2-2b-it-GGUF",
        file="gemma-2-2b-it-Q4_K_M.gguf",
        size=1_708_582_752,
        sha256="e0aee85060f168f0f2d8473d7ea41ce2f3230c1bc1374847505ea599288a7787",
        licence="Gemma Terms of Use",
        licence_url="https://ai.google.dev/gemma/terms",
    ),
    GgufSource(
        name="phi3.5",
        aliases=("phi3.5:mini", "phi3.5:3.8b"),
        repository="bartowski/Phi-3.5-mini-instruct-GGUF",
        file="Phi-3.5-mini-instruct-Q4_K_M.gguf",
        size=2_393_232_672,
        sha256="e4165e3a71af97f1b4820da61079826d8752a2088e313af0c7d346796c38eff5",
        licence="MIT",
        licence_url="https://huggingface.co/microsoft/Phi-3.5-mini-instruct/blob/main/LICENSE",
    ),
    GgufSource(
        name="tinyllama",
        aliases=("tinyllama:1.1b",),
        repository="TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
        file="tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
        size=668_788_096,
        sha256="9fecc3b3cd76bba89d504f29b616eedf7da85b96540e490ca5824d3f7d2776a0",
        licence="Apache-2.0",
        licence_url="https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    ),
    GgufSource(
        name="phi3",
        aliases=("phi-3-mini", "phi3:mini", "phi3:3.8b"),
        repository="microsoft/Phi-3-mini-4k-instruct-gguf",
        file="Phi-3-mini-4k-instruct-q4.gguf",
        size=2_393_231_072,
        sha256="8a83c7fb9049a9b2e92266fa7ad04933bb53aa1e85136b7b30f1b8000ff2edef",
        licence="MIT",
        licence_url="https://huggingface.co/microsoft/Phi-3-mini-4k-instruct-gguf/blob/main/LICENSE",
    ),
    GgufSource(
        name="llama3.2:3b",
        aliases=("llama3.2",),
        repository="bartowski/Llama-3.2-3B-Instruct-GGUF",
        file="Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        size=2_019_377_696,
        sha256="6c1a2b41161032677be168d354123594c0e6e67d2b9227c84f296ad037c728ff",
        licence=_LLAMA_LICENCE,
        licence_url=_LLAMA_LICENCE_URL,
    ),
    GgufSource(
        name="qwen2.5:1.5b",
        repository="bartowski/Qwen2.5-1.5B-Instruct-GGUF",
        file="Qwen2.5-1.5B-Instruct-Q4_K_M.gguf",
        size=986_048_768,
        sha256="1adf0b11065d8ad2e8123ea110d1ec956dab4ab038eab665614adba04b6c3370",
        licence="Apache-2.0",
        licence_url="https://huggingface.co/Qwen/Qwen2.5-1.5B-Instruct/blob/main/LICENSE",
    ),
)


def find_source(name: str) -> GgufSource | None:
    """The file of a model: by its name or an alias in the catalogue, or as `hf:OWNER/REPO/FILE.gguf`.

    `None` for what is neither.
    """
    wanted = name.strip()
    if wanted.lower().startswith(HUB_PREFIX):
        return _on_hub(wanted[len(HUB_PREFIX) :])
    folded = wanted.lower().removesuffix(":latest")
    return next((one for one in CATALOGUE if folded in (one.name, *one.aliases)), None)


def require_source(model: str) -> GgufSource:
    """The file that a model's name stands for. Raises `ModelNotFoundError` that lists the names."""
    source = find_source(model)
    if source is None:
        raise ModelNotFoundError(
            f"{model} is not in the catalogue; there is: {', '.join(one.name for one in CATALOGUE)}. "
            "Any other GGUF file of the hub is named hf:OWNER/REPO/FILE.gguf",
            model=model,
        )
    return source


def _on_hub(place: str) -> GgufSource | None:
    match = _HUB_NAME.fullmatch(place)
    if match is None or ".." in place:
        return None
    file = match["file"]
    return GgufSource(
        name=_PART.sub("", file.rpartition("/")[2]).removesuffix(".gguf"),
        repository=match["repository"],
        file=file,
        licence="see its page on the hub",
        licence_url=f"https://huggingface.co/{match['repository']}",
    )


# A file of the catalogue has the name that people ask for, whoever put it into the folder.
NAME_OF_FILE: dict[str, str] = {one.local_file.lower(): one.name for one in CATALOGUE}
