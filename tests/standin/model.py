"""What a stand-in model is, and what it answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tests.standin.schema import instance_of

Request = Mapping[str, Any]
_TOKEN = re.compile(r"\s*\S+|\s+\Z")
_WORDS = (
    "the answer depends on what is measured and how long one waits so a careful reader keeps both figures "
    "names the assumption checks one example and only then compares the options in plain words"
).split()


@dataclass(frozen=True)
class Reply:
    """One scripted answer. A token is a word with the white space before it, unless `tokens` says else."""

    text: str = ""
    thinking: str | None = None
    """None: the model's default thinking, if it thinks."""
    tokens: tuple[str, ...] | None = None
    """The exact pieces of the answer; `text` is then ignored."""
    tool_calls: tuple[dict[str, Any], ...] = ()
    done_reason: str = "stop"
    prompt_eval_count: int | None = None
    """What is reported in place of the counted words of the prompt."""
    eval_count: int | None = None

    def pieces(self) -> list[str]:
        return list(self.tokens) if self.tokens is not None else tokenize(self.text)


ReplyFunction = Callable[[dict[str, Any]], "Reply | str"]
ReplySource = str | Reply | Sequence["str | Reply"] | ReplyFunction | None


@dataclass(frozen=True)
class StandInModel:
    """A model of the stand-in: its listing, its speed, its answers. Times are in milliseconds.

    `reply` is one text or `Reply` for every call, a sequence for subsequent calls (the last one repeats),
    or a function of the request. Left out: a valid instance of the request's schema, else a sentence with
    the name.
    """

    name: str
    size: int = 1_321_098_329
    parameter_size: str = "1.2B"
    capabilities: tuple[str, ...] = ("completion", "tools")
    family: str = "llama"
    quantization_level: str = "Q8_0"
    context_length: int = 131_072
    """The training context: a slot's context is never larger."""
    embedding_length: int = 64
    load_ms: float = 0.0
    resident: bool = False
    """Loaded when the server starts."""
    hand_out_ms: float = 0.0
    """Until a call is handed a loaded model: part of load_duration, 1 to 100 ms with Ollama."""
    slots: int | None = None
    """None: the server's; an embedding-only model always has one."""
    prompt_tokens_per_s: float = 0.0
    """0: prompts cost nothing."""
    cache_prefix: bool = False
    """Only the words after the longest prefix that a slot's last prompt shares cost prompt time."""
    first_token_ms: float = 0.0
    token_ms: float = 0.0
    duration_ms: float | None = None
    """Time of generation from the end of the prompt to the end, spread over the tokens; replaces token_ms."""
    chunks_per_write: int = 1
    thinking: bool = False
    answer_tokens: int | None = None
    """Length of the default sentence answer."""
    reply: ReplySource = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.thinking and "thinking" not in self.capabilities:
            object.__setattr__(self, "capabilities", (*self.capabilities, "thinking"))
        if "thinking" in self.capabilities and not self.thinking:
            object.__setattr__(self, "thinking", True)

    @property
    def embedding_only(self) -> bool:
        return "embedding" in self.capabilities and "completion" not in self.capabilities

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @classmethod
    def from_json(cls, value: str | Mapping[str, Any]) -> StandInModel:
        """A model from its name or from a JSON object with these fields; an unknown field is a ValueError."""
        if isinstance(value, str):
            return cls(value)
        unknown = set(value) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model fields: {', '.join(sorted(unknown))}")
        given = dict(value)
        if "capabilities" in given:
            given["capabilities"] = tuple(given["capabilities"])
        reply = given.get("reply")
        if isinstance(reply, list):
            given["reply"] = [_reply_from_json(item) for item in reply]
        elif reply is not None:
            given["reply"] = _reply_from_json(reply)
        return cls(**given)

    def with_changes(self, **changes: Any) -> StandInModel:
        return replace(self, **changes)


def _reply_from_json(value: str | Mapping[str, Any]) -> str | Reply:
    if isinstance(value, str):
        return value
    given = dict(value)
    for name in ("tokens", "tool_calls"):
        if given.get(name) is not None:
            given[name] = tuple(given[name])
    return Reply(**given)


def tokenize(text: str) -> list[str]:
    """Words with the white space before them; joined they are `text`."""
    return _TOKEN.findall(text)


def reply_for(model: StandInModel, request: dict[str, Any], call_index: int) -> Reply:
    """The answer to the `call_index`-th (from 0) generation of `model`."""
    source = model.reply
    if callable(source):
        source = source(request)
    elif isinstance(source, Sequence) and not isinstance(source, str):
        source = source[min(call_index, len(source) - 1)] if source else None
    if isinstance(source, str):
        return Reply(source)
    return source if source is not None else default_reply(model, request)


def default_reply(model: StandInModel, request: dict[str, Any]) -> Reply:
    """A valid instance of the request's schema, else a sentence that mentions the model's name."""
    wanted = request.get("format")
    if isinstance(wanted, dict):
        return Reply(json.dumps(instance_of(wanted, model.name), ensure_ascii=False))
    if wanted == "json":
        return Reply(json.dumps({"answer": f"{model.name} answers", "score": _hash(model.name) % 10 + 1}))
    start = _hash(f"{model.name}|{prompt_text(request)}")
    words = [_WORDS[(start + i) % len(_WORDS)] for i in range(max(0, (model.answer_tokens or 14) - 2))]
    sentence = [model.name, "answers:", *words][: model.answer_tokens]
    return Reply(" ".join(sentence) + ("." if model.answer_tokens is None else ""))


def default_thinking(model: StandInModel) -> str:
    return f"{model.name} weighs the question before it answers."


def prompt_text(request: Mapping[str, Any]) -> str:
    """All the text of a request that is prompt, in order."""
    messages = request.get("messages")
    if messages:
        return "\n".join(str(message.get("content") or "") for message in messages)
    return f"{request.get('system') or ''} {request.get('prompt') or ''}".strip()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
