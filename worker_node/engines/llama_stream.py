"""llama.cpp's `/v1/chat/completions`, streamed: our request in, our events out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec

from common.errors import EngineFailedError
from common.protocol import GenerateRequest, LineSplitter, Message
from common.usage import TokenUsage
from worker_node.engines.base import EngineEvent, Finished, Text
from worker_node.engines.ollama_errors import classify, error_of_body
from worker_node.engines.wire_client import TRANSPORT_ERRORS, WireClient, encode_json, trace_headers

_DATA = b"data:"
_DONE = b"[DONE]"


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Timings(msgspec.Struct):
    prompt_ms: float | None = None
    predicted_ms: float | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


def chat_body(request: GenerateRequest) -> dict[str, Any]:
    """The request as llama-server reads it; our option names are its own but for `num_predict`."""
    messages = list(request.messages or ())
    if request.prompt is not None:
        messages = [Message("user", request.prompt)]
    if request.system:
        messages.insert(0, Message("system", request.system))
    body: dict[str, Any] = dict(request.options)
    length = body.pop("num_predict", None)
    if length is not None and length > 0:
        body["max_tokens"] = length
    body |= {
        "model": request.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": True,
    }
    if request.format == "json":
        body["response_format"] = {"type": "json_object"}
    elif request.format is not None:
        schema = {"name": "answer", "schema": request.format}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if isinstance(request.think, bool):
        body["chat_template_kwargs"] = {"enable_thinking": request.think}
    elif request.think is not None:
        body["chat_template_kwargs"] = {"enable_thinking": True, "reasoning_effort": request.think}
    return body


async def stream_chat(wire: WireClient, request: GenerateRequest) -> AsyncIterator[EngineEvent]:
    """Stream one call: one `Text` per channel and read, then `Finished`. Closing hangs up on the engine."""
    model = request.model
    splitter = LineSplitter()
    reason: str | None = None
    usage = _Usage()
    timings = _Timings()
    reader = partial(error_of_body, model=model)
    body = encode_json(chat_body(request))
    async with wire.stream("/v1/chat/completions", body, trace_headers(request), reader) as reads:
        whole = False
        try:
            async for data in reads:
                thinking = answer = ""
                for line in splitter.feed(data):
                    if not line.startswith(_DATA):
                        continue  # a comment that keeps the connection alive
                    payload = line[len(_DATA) :].strip()
                    if payload == _DONE:
                        whole = True
                        break
                    chunk = _decoded(payload, model)
                    usage = chunk.usage or usage
                    timings = chunk.timings or timings
                    for choice in chunk.choices:
                        reason = choice.finish_reason or reason
                        if choice.delta is not None:
                            thinking += choice.delta.reasoning_content or ""
                            answer += choice.delta.content or ""
                if thinking:
                    yield Text("thinking", thinking)
                if answer:
                    yield Text("answer", answer)
                if whole:
                    break
        except TRANSPORT_ERRORS as error:
            raise wire.cut(error, model) from error
        except ValueError as error:
            raise EngineFailedError(f"llama.cpp's stream cannot be read: {error}", model=model) from error
        if not whole or reason is None:
            raise wire.cut(None, model)
        yield Finished(
            done_reason=reason,
            token_usage=TokenUsage.of(usage.prompt_tokens, usage.completion_tokens),
            prompt_ms=timings.prompt_ms,
            generate_ms=timings.predicted_ms,
        )


def _decoded(payload: bytes, model: str) -> _Chunk:
    try:
        chunk = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineFailedError(
            f"llama.cpp sent an event that cannot be read: {error}", model=model
        ) from error
    if chunk.error is not None:
        raise classify(chunk.error, status=None, model=model)
    return chunk
