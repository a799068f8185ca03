"""The OpenAI-compatible messages as far as we read and write them, and the dialects of the servers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from common.protocol import GenerateRequest, Message
from common.usage import TokenUsage
from worker_node.engines.base import Finished

Dialect = Literal["llama-server", "vllm", "lm-studio", "openai"]

# Our names are Ollama's. What a dialect has no word for is left out: the other options still hold.
_EVERYWHERE = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "num_predict": "max_tokens",
}
_OPTIONS: dict[Dialect, dict[str, str]] = {
    "openai": _EVERYWHERE,
    "lm-studio": {**_EVERYWHERE, "top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repeat_penalty"},
    "vllm": {**_EVERYWHERE, "top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"},
    "llama-server": {
        **_EVERYWHERE,
        "top_k": "top_k",
        "min_p": "min_p",
        "typical_p": "typical_p",
        "repeat_last_n": "repeat_last_n",
        "repeat_penalty": "repeat_penalty",
    },
}
_NEGATIVE_IS_UNSET = frozenset({"seed", "num_predict"})


class DeltaText(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(msgspec.Struct):
    delta: DeltaText | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Timings(msgspec.Struct):
    """llama-server's own figures, milliseconds."""

    prompt_n: int | None = None
    cache_n: int | None = None
    prompt_ms: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None


class Chunk(msgspec.Struct):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Any = None


class ModelMeta(msgspec.Struct):
    n_ctx_train: int | None = None
    size: int | None = None


class ListedModel(msgspec.Struct):
    """One entry of `/v1/models`; `max_model_len` is vLLM's, `meta` llama-server's."""

    id: str
    max_model_len: int | None = None
    meta: ModelMeta | None = None


class ModelList(msgspec.Struct):
    data: list[ListedModel] | None = None


class GenerationDefaults(msgspec.Struct):
    n_ctx: int | None = None


class Props(msgspec.Struct):
    """llama-server's `/props`: `n_ctx` is the context of one slot."""

    total_slots: int | None = None
    default_generation_settings: GenerationDefaults | None = None
    build_info: str | None = None


class EmbeddingItem(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class Embeddings(msgspec.Struct):
    data: list[EmbeddingItem] | None = None
    usage: Usage | None = None


chunk_decoder = msgspec.json.Decoder(Chunk)
model_list_decoder = msgspec.json.Decoder(ModelList)
props_decoder = msgspec.json.Decoder(Props)
embeddings_decoder = msgspec.json.Decoder(Embeddings)


def chat_body(request: GenerateRequest, *, model: str, dialect: Dialect) -> dict[str, Any]:
    """The body of `/chat/completions`: always a stream, because a hang-up on it is noticed at once."""
    messages = list(request.messages or ())
    if request.prompt is not None:
        messages = [Message("user", request.prompt)]
    if request.system:
        messages.insert(0, Message("system", request.system))
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    names = _OPTIONS[dialect]
    for name, value in request.options.items():
        if name in names and not (name in _NEGATIVE_IS_UNSET and value < 0):
            body[names[name]] = value
    if request.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif request.format is not None:
        schema = {"name": "answer", "schema": request.format, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if isinstance(request.think, bool):
        if dialect in ("llama-server", "vllm"):
            body["chat_template_kwargs"] = {"enable_thinking": request.think}
    elif request.think is not None:
        body["reasoning_effort"] = "high" if request.think == "max" else request.think
    return body


def finished(reason: str | None, usage: Usage | None, timings: Timings | None) -> Finished:
    """The engine's own account of a call; usage counts first, llama-server's timings where it is missing."""
    timings = timings or Timings()
    prompt = usage.prompt_tokens if usage else None
    completion = usage.completion_tokens if usage else None
    if prompt is None:
        prompt = (timings.prompt_n or 0) + (timings.cache_n or 0)
    if completion is None:
        completion = timings.predicted_n or 0
    return Finished(
        # Tool calls are asked for by nobody here; an engine that says so just stopped.
        done_reason="stop" if reason in (None, "tool_calls", "function_call") else reason,
        token_usage=TokenUsage.of(prompt, completion),
        prompt_ms=timings.prompt_ms,
        generate_ms=timings.predicted_ms,
    )
