"""Ollama's messages as far as we read them. Unknown fields are ignored and every metric is optional."""

from __future__ import annotations

from typing import Any

import msgspec

from common.usage import TokenUsage
from worker_node.engines.base import Finished

# Ollama gives these families one slot whatever OLLAMA_NUM_PARALLEL says (server/sched.go).
ONE_SLOT_FAMILIES = frozenset(
    {"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"}
)
ONE_SLOT_PREFIX = "nemotron_h"


class ChatText(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None


class ChatLine(msgspec.Struct):
    """One line of `/api/chat`. Durations are nanoseconds."""

    message: ChatText | None = None
    done: bool = False
    done_reason: str | None = None
    error: Any = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class Details(msgspec.Struct):
    family: str | None = None
    families: list[str] | None = None
    context_length: int | None = None


class TaggedModel(msgspec.Struct):
    """One entry of `/api/tags`."""

    name: str
    size: int = 0
    digest: str = ""
    details: Details | None = None
    capabilities: list[str] | None = None
    remote_host: str | None = None
    remote_model: str | None = None


class Tags(msgspec.Struct):
    models: list[TaggedModel] | None = None


class RunningModel(msgspec.Struct):
    name: str


class Running(msgspec.Struct):
    models: list[RunningModel] | None = None


class Shown(msgspec.Struct):
    """What we read of `/api/show`."""

    details: Details | None = None
    capabilities: list[str] | None = None
    model_info: dict[str, Any] | None = None

    @property
    def context_length(self) -> int | None:
        """The model's own context, under `<architecture>.context_length`."""
        for key, value in (self.model_info or {}).items():
            if key.endswith(".context_length") and isinstance(value, int) and value > 0:
                return value
        return None


class Version(msgspec.Struct):
    version: str | None = None


class EmbedAnswer(msgspec.Struct):
    embeddings: list[list[float]] | None = None
    prompt_eval_count: int | None = None


class PullLine(msgspec.Struct):
    status: str | None = None
    digest: str | None = None
    completed: int | None = None
    total: int | None = None
    error: Any = None


chat_line_decoder = msgspec.json.Decoder(ChatLine)
pull_line_decoder = msgspec.json.Decoder(PullLine)
tags_decoder = msgspec.json.Decoder(Tags)
running_decoder = msgspec.json.Decoder(Running)
shown_decoder = msgspec.json.Decoder(Shown)
version_decoder = msgspec.json.Decoder(Version)
embed_decoder = msgspec.json.Decoder(EmbedAnswer)


def finished(line: ChatLine) -> Finished:
    """The engine's own account of a call, from its last line."""
    load, prompt = line.load_duration, line.prompt_eval_duration
    generate, total = line.eval_duration, line.total_duration
    queue_ns: int | None = None
    if total is not None:
        # The wait for a slot of a loaded model is in no field of its own.
        queue_ns = max(0, total - (load or 0) - (prompt or 0) - (generate or 0))
    return Finished(
        done_reason=line.done_reason or "stop",
        token_usage=TokenUsage.of(line.prompt_eval_count or 0, line.eval_count or 0),
        load_ms=_ms(load),
        prompt_ms=_ms(prompt),
        generate_ms=_ms(generate),
        queue_ms=_ms(queue_ns),
    )


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else round(nanoseconds / 1e6, 3)


def one_slot_only(details: Details | None, capabilities: list[str]) -> bool:
    """Whether Ollama runs one call at a time on the model, whatever its settings say."""
    if "embedding" in capabilities and "completion" not in capabilities:
        return True
    families = {details.family or "", *(details.families or [])} if details else set()
    return any(one in ONE_SLOT_FAMILIES or one.startswith(ONE_SLOT_PREFIX) for one in families)
