"""The engines' failures become ours: the one place that reads their error texts.

Ollama answers `{"error": "text"}` with a status, or the same as the last line of a stream; the text may hold
llama-server's JSON once more, or a Go print of such a map. The OpenAI-compatible servers answer
`{"error": {"message", "type", "code"}}`, older vLLM the same without the outer object.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from common.errors import (
    ContextOverflowError,
    CouncilError,
    EngineBusyError,
    EngineFailedError,
    EngineUnavailableError,
    InvalidRequestError,
    LoadTimeoutError,
    ModelNotFoundError,
    ModelOutputError,
    OutOfMemoryError,
)

_BUSY_RETRY_S = 2.0
_LONGEST_DETAIL = 500
_GO_MAP = re.compile(
    r"map\[code:(?P<code>\d+) message:(?P<message>.*?)"
    r"(?: n_ctx:\d+)?(?: n_prompt_tokens:\d+)?(?: type:(?P<type>\w+))?\]",
    re.DOTALL,
)
# Read in order; the first phrase that occurs in the lower-cased text decides.
_PHRASES: tuple[tuple[type[CouncilError], tuple[str, ...]], ...] = (
    (
        ContextOverflowError,
        (
            "exceed_context_size_error",
            "exceeds the available context size",
            "exceeds the context length",
            "longer than the context length",
            "maximum context length",
            "greater than the context length",
            "context_length_exceeded",
        ),
    ),
    (EngineFailedError, ("may be incompatible with your version",)),
    (
        OutOfMemoryError,
        (
            "requires more system memory",
            "unable to load",
            "llama-server process has terminated",
            "out of memory",
            "failed to allocate",
        ),
    ),
    (LoadTimeoutError, ("timed out waiting for llama-server to start", "timed out waiting for llama runner")),
    (EngineBusyError, ("server busy", "maximum pending requests", "loading model", "unavailable_error")),
    (ModelOutputError, ("the model produced output that does not match",)),
    (EngineFailedError, ("has unexpectedly stopped", "error was encountered while running the model")),
    (
        InvalidRequestError,
        (
            "does not support",
            "invalid format",
            "invalid json schema",
            "must be of type",
            "invalid think value",
            "invalid model name",
            "invalid_request_error",
        ),
    ),
    (ModelNotFoundError, ("file does not exist", "try pulling it first")),
)
_MODEL_MISSING = re.compile(r"model ['\"].*['\"] not found", re.IGNORECASE)


def error_of_body(status: int, body: bytes, *, model: str | None) -> CouncilError:
    """The error of an HTTP answer that is not a success."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        decoded = body[:_LONGEST_DETAIL].decode("utf-8", "replace")
    error = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    return classify(error, status=status, model=model)


def classify(error: Any, *, status: int | None, model: str | None) -> CouncilError:
    """The error behind an `error` value; `status` is `None` for an error inside a stream."""
    text, inner_status, kind = _unwrap(error)
    # An error line has no status of its own, and llama-server's is then the best that is known.
    status = inner_status if status in (None, 200) else status
    detail = f"the engine says: {text[:_LONGEST_DETAIL]}" if text else f"the engine answered status {status}"
    chosen = _class_of(f"{text} {kind}".lower(), status)
    retry_after = _BUSY_RETRY_S if chosen is EngineBusyError else None
    return chosen(detail, model=model, retry_after_s=retry_after)


def _class_of(text: str, status: int | None) -> type[CouncilError]:
    for kind, phrases in _PHRASES:
        if any(phrase in text for phrase in phrases):
            return kind
    if status == 404 or _MODEL_MISSING.search(text):
        return ModelNotFoundError
    if status in (429, 503):
        return EngineBusyError
    if status in (401, 403, 405, 407, 502, 504):
        # Not about the call: a proxy in between, Ollama's Host check, or a missing API key.
        return EngineUnavailableError
    if status is not None and 400 <= status < 500 and status != 499:
        return InvalidRequestError
    return EngineFailedError


def _unwrap(error: Any) -> tuple[str, int | None, str]:
    """Text, status and type of an error that may be nested once, as JSON or as a Go map."""
    if isinstance(error, dict):
        inner = error.get("error", error)
        if isinstance(inner, dict):
            code = inner.get("code")
            return (
                str(inner.get("message") or inner),
                code if isinstance(code, int) else None,
                str(inner.get("type") or ""),
            )
        return str(inner), None, ""
    text = str(error or "")
    start = text.find("{")
    if start >= 0:
        try:
            nested = msgspec.json.decode(text[start:])
        except msgspec.DecodeError:
            nested = None
        if isinstance(nested, dict) and ("error" in nested or "message" in nested):
            return _unwrap(nested)
    match = _GO_MAP.search(text)
    if match is not None:
        return match["message"], int(match["code"]), match["type"] or ""
    return text, None, ""
