"""OpenAI's shapes of a chat: what is asked, and the parts of an answer."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from common.errors import CouncilError, InvalidRequestError
from common.protocol import Channel
from common.usage import TokenUsage
from master.api.schemas import SamplingOptions, Words

COUNCIL_MODEL = "council"
DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


class ChatPart(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["text"]
    text: Words


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Words | list[ChatPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    include_usage: bool = False


class ChatCompletion(BaseModel):
    """The fields that are used; others of OpenAI's are ignored, as servers of this shape do."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=32768)
    max_completion_tokens: int | None = Field(None, ge=1, le=32768)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    stop: str | list[str] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: dict[str, Any] | None = None
    service_tier: str | None = Field(None, max_length=40)

    @property
    def is_flex(self) -> bool:
        """Whether the call may wait for what is more urgent. Councils are not run so."""
        return self.service_tier == "flex" and self.model != COUNCIL_MODEL

    @property
    def tier(self) -> dict[str, str]:
        """What the answer says of it, where the request did."""
        if self.service_tier is None:
            return {}
        return {"service_tier": "flex" if self.is_flex else "default"}

    def options(self) -> dict[str, Any]:
        """The options of the engine. Raises `ValidationError` where OpenAI allows what engines do not."""
        asked = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "num_predict": self.max_completion_tokens or self.max_tokens,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return SamplingOptions.model_validate(given).as_dict() if given else {}

    def format(self) -> Literal["json"] | dict[str, Any] | None:
        kind = (self.response_format or {}).get("type")
        if kind == "json_object":
            return "json"
        if kind == "json_schema":
            described = (self.response_format or {}).get("json_schema")
            schema = described.get("schema") if isinstance(described, dict) else None
            if not isinstance(schema, dict):
                raise InvalidRequestError("response_format.json_schema.schema has to be a JSON Schema object")
            return schema
        return None


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that is over: how it ended, and what it cost."""

    finish: str
    usage: TokenUsage


def new_id() -> str:
    """Of one chat, in its answer and in the logs."""
    return secrets.token_hex(16)


def whole(asked: ChatCompletion, chat_id: str, text: str, thinking: str, end: Answered) -> bytes:
    """The answer to a call that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["reasoning"] = thinking
    choice = {"index": 0, "message": message, "finish_reason": end.finish}
    return _encode(
        {**_head("chat.completion", asked, chat_id), "choices": [choice], "usage": _usage(end.usage)}
    )


class Chunks:
    """The chunks of one streamed answer, as server-sent events."""

    def __init__(self, asked: ChatCompletion, chat_id: str) -> None:
        self._head = _head("chat.completion.chunk", asked, chat_id)
        self._wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
        # All but the text is the same in each chunk, and is encoded once.
        opening = b"data: " + _encode(self._head)[:-1] + b',"choices":[{"index":0,"delta":{"'
        self._openings = {"answer": opening + b'content":', "thinking": opening + b'reasoning":'}

    def first(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, channel: Channel, text: str) -> bytes:
        return b"".join((self._openings[channel], _encode(text), b'},"finish_reason":null}]}\n\n'))

    def last(self, end: Answered) -> bytes:
        made = self._chunk({}, end.finish)
        if self._wants_usage:
            made += _event({**self._head, "choices": [], "usage": _usage(end.usage)})
        return made + DONE

    def failed(self, error: CouncilError) -> bytes:
        return _event(openai_error(error))

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return _event({**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def openai_error(error: CouncilError) -> dict[str, Any]:
    kind = "invalid_request_error" if error.status < 500 else "api_error"
    return {"error": {"message": error.detail, "type": kind, "param": None, "code": error.code}}


def _head(kind: str, asked: ChatCompletion, chat_id: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{chat_id}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.model,
        **asked.tier,
    }


def _usage(usage: TokenUsage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"
