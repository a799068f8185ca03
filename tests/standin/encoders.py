"""How an answer looks on the wire, in each dialect: chat, generate, and OpenAI's chat completions."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.standin.wire import EVENT_STREAM, JSON, JSON_BARE, NDJSON, created_at, go_json, go_string


@dataclass
class Ending:
    """What is known when a generation ends."""

    text: str = ""
    thinking: str = ""
    done: bool = True
    done_reason: str | None = "stop"
    tool_calls: tuple[dict[str, Any], ...] = ()
    metrics: dict[str, int] = field(default_factory=dict)
    """In the order of the wire, zeros left out."""
    context: list[int] | None = None


class Encoder(Protocol):
    """Bytes of one answer. `delta` and `end` are whole lines or events, with their ends."""

    stream_type: str
    whole_type: str

    def delta(self, text: str, thinking: bool, raw_separators: bool) -> bytes: ...

    def end(self, ending: Ending, tail: str) -> bytes:
        """The closing line; `tail` is text that comes with it."""
        ...

    def whole(self, ending: Ending) -> bytes: ...

    def late_error(self, text: str) -> bytes: ...


class ChatEncoder:
    """`/api/chat`."""

    stream_type = NDJSON
    whole_type = JSON

    def __init__(self, model: str) -> None:
        self._model = model
        self._head = b'{"model":' + go_string(model) + b',"created_at":"'

    def delta(self, text: str, thinking: bool, raw_separators: bool) -> bytes:
        body = go_string(text, raw_separators=raw_separators)
        if thinking:
            body = b'"","thinking":' + body
        return b'%b%b","message":{"role":"assistant","content":%b},"done":false}\n' % (
            self._head,
            created_at().encode(),
            body,
        )

    def end(self, ending: Ending, tail: str) -> bytes:
        return self._object(ending, tail, "") + b"\n"

    def whole(self, ending: Ending) -> bytes:
        return self._object(ending, ending.text, ending.thinking)

    def _object(self, ending: Ending, content: str, thinking: str) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thinking:
            message["thinking"] = thinking
        if ending.tool_calls:
            message["tool_calls"] = list(ending.tool_calls)
        value: dict[str, Any] = {
            "model": self._model,
            "created_at": created_at(),
            "message": message,
            "done": ending.done,
        }
        if ending.done and ending.done_reason:
            value["done_reason"] = ending.done_reason
        return go_json({**value, **ending.metrics})

    def late_error(self, text: str) -> bytes:
        return go_json({"error": text}) + b"\n"


class GenerateEncoder:
    """`/api/generate`."""

    stream_type = NDJSON
    whole_type = JSON

    def __init__(self, model: str) -> None:
        self._model = model
        self._head = b'{"model":' + go_string(model) + b',"created_at":"'

    def delta(self, text: str, thinking: bool, raw_separators: bool) -> bytes:
        body = go_string(text, raw_separators=raw_separators)
        if thinking:
            body = b'"","thinking":' + body
        return b'%b%b","response":%b,"done":false}\n' % (self._head, created_at().encode(), body)

    def end(self, ending: Ending, tail: str) -> bytes:
        return self._object(ending, tail, "") + b"\n"

    def whole(self, ending: Ending) -> bytes:
        return self._object(ending, ending.text, ending.thinking)

    def _object(self, ending: Ending, content: str, thinking: str) -> bytes:
        value: dict[str, Any] = {"model": self._model, "created_at": created_at(), "response": content}
        if thinking:
            value["thinking"] = thinking
        value["done"] = ending.done
        if ending.done and ending.done_reason:
            value["done_reason"] = ending.done_reason
        if ending.done and ending.context:
            value["context"] = ending.context
        value.update(ending.metrics)
        if ending.tool_calls:
            value["tool_calls"] = list(ending.tool_calls)
        return go_json(value)

    def late_error(self, text: str) -> bytes:
        return go_json({"error": text}) + b"\n"


class OpenAIEncoder:
    """`/v1/chat/completions`; a late error is lost, as it is in Ollama."""

    stream_type = EVENT_STREAM
    whole_type = JSON_BARE

    def __init__(self, model: str, include_usage: bool) -> None:
        self._model = model
        self._include_usage = include_usage
        self._id = f"chatcmpl-{random.randrange(999)}"
        self._created = int(time.time())
        self._opened = False
        self._head = self._event_head(model)

    def _event_head(self, model: str) -> bytes:
        head = go_json(
            {
                "id": self._id,
                "object": "chat.completion.chunk",
                "created": self._created,
                "model": model,
                "system_fingerprint": "fp_ollama",
            }
        )
        return b"data: " + head[:-1]

    def delta(self, text: str, thinking: bool, raw_separators: bool) -> bytes:
        body = go_string(text, raw_separators=raw_separators)
        if thinking:
            body = b'"","reasoning":' + body
        role = b"" if self._opened else b'"role":"assistant",'
        self._opened = True
        return b'%b,"choices":[{"index":0,"delta":{%b"content":%b},"finish_reason":null}]}\n\n' % (
            self._head,
            role,
            body,
        )

    def end(self, ending: Ending, tail: str) -> bytes:
        events = []
        if tail:
            events.append(self.delta(tail, False, False))
        if ending.tool_calls:
            calls = go_json({"role": "assistant", "content": "", "tool_calls": _openai_calls(ending)})
            events.append(
                self._head + b',"choices":[{"index":0,"delta":' + calls + b',"finish_reason":null}]}\n\n'
            )
        reason = go_string(_finish_reason(ending))
        events.append(
            self._head + b',"choices":[{"index":0,"delta":{},"finish_reason":' + reason + b"}]}\n\n"
        )
        if self._include_usage:
            events.append(self._head + b',"choices":[],"usage":' + go_json(_usage(ending)) + b"}\n\n")
        events.append(b"data: [DONE]\n\n")
        return b"".join(events)

    def whole(self, ending: Ending) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": ending.text}
        if ending.thinking:
            message["reasoning"] = ending.thinking
        if ending.tool_calls:
            message["tool_calls"] = _openai_calls(ending)
        return go_json(
            {
                "id": self._id,
                "object": "chat.completion",
                "created": self._created,
                "model": self._model,
                "system_fingerprint": "fp_ollama",
                "choices": [{"index": 0, "message": message, "finish_reason": _finish_reason(ending)}],
                "usage": _usage(ending),
            }
        )

    def late_error(self, text: str) -> bytes:
        head = self._event_head("")
        return head + b',"choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}\n\n'


def _openai_calls(ending: Ending) -> list[dict[str, Any]]:
    made = []
    for index, call in enumerate(ending.tool_calls):
        function = call.get("function", call)
        arguments = go_json(function.get("arguments", {})).decode()
        made.append(
            {
                "id": f"call_{index}",
                "index": index,
                "type": "function",
                "function": {"name": function.get("name", ""), "arguments": arguments},
            }
        )
    return made


def _finish_reason(ending: Ending) -> str:
    if ending.tool_calls:
        return "tool_calls"
    return ending.done_reason or "stop"


def _usage(ending: Ending) -> dict[str, int]:
    prompt = ending.metrics.get("prompt_eval_count", 0)
    completion = ending.metrics.get("eval_count", 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
