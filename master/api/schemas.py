"""What clients send, validated."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from common.errors import PayloadTooLargeError

MAX_QUESTION_BYTES = 64 * 1024
MAX_AGENTS = 16
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


def _storable(value: str) -> str:
    """What JSON can spell and neither an engine nor every database takes is told, not dropped silently."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not valid Unicode (it has a lone surrogate)") from None
    if "\x00" in value:
        raise ValueError("the text has a NUL character (U+0000)")
    return value


Words = Annotated[str, AfterValidator(_storable)]
ModelName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingOptions(_Body):
    """Options of one answer. What makes an engine reload its model (`num_ctx` …) is the node's to set."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1000)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    num_predict: int | None = Field(None, ge=1, le=32768)
    repeat_penalty: float | None = Field(None, ge=0, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stop: list[Annotated[str, StringConstraints(min_length=1, max_length=100)]] | None = Field(
        None, max_length=8
    )

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class AgentChoice(_Body):
    model: ModelName
    persona: Annotated[Words, StringConstraints(strip_whitespace=True, max_length=1000)] | None = None


class CreateSession(_Body):
    """`POST /api/council/sessions`. Left out, agents and chairman are chosen from the cluster's models."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "question": "Which of two sorting algorithms should I use for nearly sorted data?",
                    "selected_agents": ["llama3.2:1b", {"model": "qwen2.5:0.5b", "persona": "sceptic"}],
                    "chairman": "phi3.5",
                }
            ]
        },
    )

    question: Words
    selected_agents: list[ModelName | AgentChoice] | None = Field(None, min_length=1, max_length=MAX_AGENTS)
    chairman: ModelName | None = None
    chairman_fallbacks: list[ModelName] = Field(default_factory=list, max_length=8)
    conversation_id: UUID | None = None
    quorum: int | None = Field(None, ge=1, le=MAX_AGENTS)
    cache: bool = False
    options: SamplingOptions = Field(default_factory=SamplingOptions)

    @field_validator("question")
    @classmethod
    def _question_has_words(cls, value: str) -> str:
        if len(value.encode()) > MAX_QUESTION_BYTES:
            raise PayloadTooLargeError(f"a question may have {MAX_QUESTION_BYTES // 1024} KiB at most")
        if not value.strip():
            raise ValueError("the question is empty")
        return value

    @property
    def agents(self) -> list[AgentChoice] | None:
        if self.selected_agents is None:
            return None
        return [AgentChoice(model=one) if isinstance(one, str) else one for one in self.selected_agents]


class AddWorker(_Body):
    url: str = Field(min_length=1, max_length=500)
    name: str | None = Field(None, max_length=63)
    key: str | None = Field(None, max_length=500)
    fingerprint: str | None = Field(None, max_length=200)
    mac: str | None = Field(None, max_length=17)


class WakeWorker(_Body):
    mac: str | None = Field(None, max_length=17)


class CreateKey(_Body):
    name: str
    role: Literal["person", "admin"] = "person"

    @field_validator("name")
    @classmethod
    def _can_be_typed(cls, name: str) -> str:
        if not _KEY_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:80]!r} is no name for a key: a letter or digit, then letters, digits, '.', '_', '@' "
                "and '-', at most 63"
            )
        return name


class CreateToken(_Body):
    ttl_s: float = Field(900.0, ge=1, le=7 * 24 * 3600)


class Join(_Body):
    """What a node tells when it joins: its name, its port, and a request for a certificate (PEM)."""

    name: str = Field(max_length=63)
    port: int = Field(ge=1, le=65535)
    request: str | None = Field(None, max_length=10_000)


class Renew(_Body):
    """What a node tells when it starts, and now and then: its port, and a request for a certificate."""

    port: int = Field(ge=1, le=65535)
    request: str | None = Field(None, max_length=10_000)


class PullModel(_Body):
    model: ModelName
    worker: str | None = Field(None, max_length=63)
    all: bool = False
    embedded: bool = False
    background: bool = False

    @model_validator(mode="after")
    def _one_or_all(self) -> Self:
        if self.embedded and self.background:
            raise ValueError("a background engine takes no GGUF files: ask for `embedded` or `background`")
        if self.worker is not None and self.all:
            raise ValueError("name a `worker` or ask for `all`, not both")
        return self


class Login(_Body):
    key: str = Field(max_length=500)
