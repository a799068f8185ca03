"""The messages between master and worker node, all on one page. Version 1.

Requests are JSON bodies; the answer to `generate` is NDJSON, one tagged message a line:

    queued* → (waiting)* → started → (delta | waiting)* → done | error

Unknown fields are ignored on both sides. msgspec and not Pydantic, because these are read and written per
token; docs/decisions/0003-msgspec-on-the-node-wire.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from common.usage import CallLatency, TokenUsage

NDJSON_MEDIA_TYPE = "application/x-ndjson"
HEARTBEAT_S = 1.0  # a `waiting` line at least this often while nothing else is sent
FROZEN_AFTER_S = 5.0  # a node that sends no line for this long is taken for frozen

CallClass = Literal["interactive", "background"]
EngineName = Literal["main", "background"]
Channel = Literal["answer", "thinking"]
Phase = Literal["queue", "load", "prompt"]
Role = Literal["system", "user", "assistant"]
HealthStatus = Literal["healthy", "degraded", "unhealthy"]
ThinkLevel = bool | Literal["low", "medium", "high", "max"]

RUN_TIME_OPTIONS = frozenset(
    {
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "seed",
        "num_predict",
        "repeat_last_n",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "stop",
    }
)
# A change of one of these makes an engine reload the model under everybody: they belong to the node.
LOAD_TIME_OPTIONS = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "num_keep", "shift"}
)


class Message(msgspec.Struct, frozen=True):
    role: Role
    content: str


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /api/generate`. Exactly one of `prompt` and `messages`; `stream` is always sent."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
    prompt: str | None = None
    messages: list[Message] | None = None
    system: str | None = None
    format: Literal["json"] | dict[str, Any] | None = None
    options: dict[str, Any] = {}
    think: ThinkLevel | None = None
    engine: EngineName = "main"
    stream: bool = True
    call_class: CallClass = msgspec.field(name="class", default="interactive")
    deadline_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None
    request_id: str | None = None
    traceparent: str | None = None
    # A background call that is started again when the node ends it (`preempted`) for an interactive one.
    yields: bool = False


class BatchRequest(msgspec.Struct, frozen=True):
    requests: list[GenerateRequest]


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
    input: list[str]
    engine: EngineName = "main"


class EmbedResponse(msgspec.Struct, frozen=True):
    model: str
    embeddings: list[list[float]]
    token_usage: TokenUsage


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/models/load|unload|pull`."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
    engine: EngineName = "main"


class Queued(msgspec.Struct, frozen=True, tag_field="type", tag="queued"):
    position: int


class Waiting(msgspec.Struct, frozen=True, tag_field="type", tag="waiting"):
    phase: Phase


class Started(msgspec.Struct, frozen=True, tag_field="type", tag="started"):
    """The call holds its slot and the model is resident: `GENERATION_TIMEOUT` counts from here."""


class Delta(msgspec.Struct, frozen=True, tag_field="type", tag="delta"):
    channel: Channel
    text: str


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done"):
    done_reason: str
    token_usage: TokenUsage
    latency: CallLatency


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    error: dict[str, Any]


StreamMessage = Queued | Waiting | Started | Delta | Done | Failed


class GenerateResponse(msgspec.Struct, frozen=True):
    """The answer to `"stream": false`, and one entry of a batch that worked."""

    text: str
    thinking: str
    done_reason: str
    token_usage: TokenUsage
    latency: CallLatency


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One model of one engine of a node, as `/health/models` lists it.

    `size` in bytes; `slots` calls run at once; `context_length` tokens a slot can hold (prompt and answer).
    """

    name: str
    size: int
    engine: str
    resident: bool
    slots: int
    capabilities: list[str] = []
    context_length: int = 4096
    practice: bool = False


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of a node, as `/health/ollama` tells it."""

    name: EngineName
    kind: str
    address: str
    status: Literal["connected", "disconnected"]
    version: str | None = None
    latency_ms: float | None = None
    error: str | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    status: HealthStatus
    role: Literal["master", "worker"]
    protocol: int
    name: str
    version: str
    uptime_s: float
    checks: dict[str, str]


encoder = msgspec.json.Encoder()
stream_decoder: msgspec.json.Decoder[StreamMessage] = msgspec.json.Decoder(StreamMessage)


def encode_line(message: msgspec.Struct) -> bytes:
    """One NDJSON line, newline included."""
    return encoder.encode(message) + b"\n"


class LineSplitter:
    """Cuts a byte stream into lines at `\\n` only.

    Text in JSON may hold U+0085 and U+2028 as they are, which `str.splitlines` would cut at. `feed` takes
    what one read brought and returns the complete lines in it; `rest` is a last line without its newline.
    Raises `ValueError` when a line outgrows `max_line_bytes`.
    """

    def __init__(self, max_line_bytes: int = 16 * 1024 * 1024) -> None:
        self._pending = bytearray()
        self._max = max_line_bytes

    def feed(self, data: bytes) -> list[bytes]:
        if b"\n" not in data:
            self._pending += data
            if len(self._pending) > self._max:
                raise ValueError(f"a line is longer than {self._max} bytes")
            return []
        if not self._pending and data.find(b"\n") == len(data) - 1:
            line = data[:-1]
            return [line] if line.strip() else []  # as nearly every read of a long answer
        *lines, rest = data.split(b"\n")
        if self._pending:
            lines[0] = bytes(self._pending) + lines[0]
            self._pending.clear()
        self._pending += rest
        return [line for line in lines if line.strip()]

    @property
    def rest(self) -> bytes:
        return bytes(self._pending).strip()
