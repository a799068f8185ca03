"""Faults: what goes wrong, for which calls, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from tests.standin.wire import lookup_key


class FaultKind(StrEnum):
    """What goes wrong. Those marked (k) happen after `after_tokens` tokens were sent."""

    STATUS = "status"  # `status` and `text` before the first token
    BUSY = "busy"  # 503 with Ollama's own text
    OUT_OF_MEMORY = "out_of_memory"  # 500, the model does not fit
    RUNNER_DIED = "runner_died"  # 500, the model is unloaded
    OLD_ERROR_LINE = "old_error_line"  # 200 and an error line first, as before v0.12.6
    DELAY = "delay"  # `stall_ms` before anything is looked at
    ERROR_LINE = "error_line"  # (k) an error line, then EOF
    NO_DONE = "no_done"  # (k) EOF without `done`
    CUT = "cut"  # (k) half a line, then the connection is gone; `reset` sends a TCP reset
    STALL = "stall"  # (k) silence for `stall_ms`, for ever when it is None; at 0 tokens also no headers
    GARBAGE_LINE = "garbage_line"  # (k) one line that is not JSON, then the stream goes on
    WHITESPACE = "whitespace"  # (k) blank tokens; after 31 equal ones EOF without `done`
    ENDLESS = "endless"  # (k) tokens for ever; `obey_num_predict` lets num_predict end it
    LENGTH = "length"  # (k) cut there with done_reason "length"
    EMPTY = "empty"  # no text at all
    INVALID_JSON = "invalid_json"  # the answer is cut so that it is no JSON; `text` replaces it
    PROSE = "prose"  # prose where JSON was asked for; `text` replaces it
    NO_PROMPT_EVAL_COUNT = "no_prompt_eval_count"
    NO_FINAL_NEWLINE = "no_final_newline"
    ONE_WRITE = "one_write"  # all lines in a single write
    SPLIT_LINES = "split_lines"  # each line over several writes
    SPLIT_MULTIBYTE = "split_multibyte"  # writes end inside multi-byte characters
    RAW_SEPARATORS = "raw_separators"  # U+0085 and U+2028, unescaped, inside the content
    CONTENT_IN_DONE = "content_in_done"  # the last token comes in the `done` line


TIMED = frozenset(
    {
        FaultKind.ERROR_LINE,
        FaultKind.NO_DONE,
        FaultKind.CUT,
        FaultKind.STALL,
        FaultKind.GARBAGE_LINE,
        FaultKind.WHITESPACE,
        FaultKind.ENDLESS,
    }
)
_SIMPLE = frozenset({FaultKind.STATUS, FaultKind.BUSY, FaultKind.DELAY, FaultKind.STALL, FaultKind.CUT})
_EMBED = _SIMPLE | {FaultKind.OUT_OF_MEMORY, FaultKind.RUNNER_DIED}
ENDPOINTS = frozenset(
    {"chat", "generate", "embed", "tags", "ps", "show", "version", "pull", "models", "root"}
)


@dataclass(frozen=True)
class Fault:
    """One fault. It takes the matching calls after the first `skip`, `times` of them (None: all).

    `endpoint` is "chat" (both dialects), "generate", "embed" or a management route ("tags", "ps",
    "version", ...); None means any generation (chat and generate). `has_format` narrows to calls
    with or without a `format`. Management routes know STATUS, BUSY, DELAY, STALL and CUT, embeddings
    OUT_OF_MEMORY and RUNNER_DIED too; another kind there is a ValueError.
    """

    kind: FaultKind | str
    model: str | None = None
    after_tokens: int = 0
    times: int | None = 1
    skip: int = 0
    endpoint: str | None = None
    has_format: bool | None = None
    status: int = 500
    text: str | None = None
    stall_ms: float | None = None
    reset: bool = False
    obey_num_predict: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", FaultKind(self.kind))
        if self.endpoint is not None and self.endpoint not in ENDPOINTS:
            raise ValueError(f"unknown endpoint {self.endpoint!r}; known: {', '.join(sorted(ENDPOINTS))}")
        if self.endpoint not in (None, "chat", "generate"):
            if self.kind not in (_EMBED if self.endpoint == "embed" else _SIMPLE):
                raise ValueError(f"{self.kind} cannot happen on {self.endpoint}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fault:
        """A fault from a JSON object with these fields; an unknown field or kind is a ValueError."""
        unknown = set(value) - {f.name for f in fields(cls)}
        if unknown or "kind" not in value:
            raise ValueError(
                f"unknown fault fields: {', '.join(sorted(unknown))}" if unknown else "kind is missing"
            )
        return cls(**value)

    def matches(self, model: str, endpoint: str, has_format: bool) -> bool:
        if self.endpoint is None:
            if endpoint not in ("chat", "generate"):
                return False
        elif self.endpoint != endpoint:
            return False
        if self.model is not None and lookup_key(self.model) != lookup_key(model):
            return False
        return self.has_format is None or self.has_format == has_format


class Faults:
    """The faults still to happen. Each knows how many matching calls it has seen."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._waiting: list[tuple[Fault, int]] = [(fault, 0) for fault in faults]

    def add(self, *faults: Fault) -> None:
        self._waiting.extend((fault, 0) for fault in faults)

    def clear(self) -> None:
        self._waiting.clear()

    @property
    def waiting(self) -> list[Fault]:
        return [fault for fault, _ in self._waiting]

    def take(self, model: str, endpoint: str, has_format: bool) -> tuple[Fault, ...]:
        """Those that hit this call; a used-up fault is forgotten."""
        if not self._waiting:
            return ()
        hit: list[Fault] = []
        kept: list[tuple[Fault, int]] = []
        for fault, seen in self._waiting:
            if fault.matches(model, endpoint, has_format):
                seen += 1
                if seen > fault.skip:
                    hit.append(fault)
                if fault.times is not None and seen >= fault.skip + fault.times:
                    continue
            kept.append((fault, seen))
        self._waiting = kept
        return tuple(hit)
