"""The bytes of the wire: Go's JSON, its times, its names, and the refusals of section 10. No I/O."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from json.encoder import encode_basestring  # the C version where there is one
from typing import Any

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
JSON_BARE = "application/json"
TEXT = "text/plain; charset=utf-8"
EVENT_STREAM = "text/event-stream"

_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_NEEDS_ESCAPE = re.compile("[<>&\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?$")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION_UNIT_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


class Refusal(Exception):
    """A request that ends with an HTTP status and `{"error": text}` before its first chunk.

    `by_engine`: it comes from the engine, so a stream's content type was set before.
    """

    def __init__(self, status: int, text: str, *, by_engine: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.by_engine = by_engine


def _escape(text: str) -> str:
    if _NEEDS_ESCAPE.search(text):
        text = _NEEDS_ESCAPE.sub(lambda m: _GO_ESCAPES[m[0]], text)
    return text


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def go_string(text: str, *, raw_separators: bool = False) -> bytes:
    """`text` as Go's encoding/json writes it; with `raw_separators` U+2028 and U+2029 stay as they are."""
    quoted = encode_basestring(text)
    if raw_separators:
        for char in "<>&":
            quoted = quoted.replace(char, _GO_ESCAPES[char])
        return _encode(quoted)
    return _encode(_escape(quoted))


def go_json(value: Any) -> bytes:
    """`value` as compact JSON in Go's dialect, keys in the order given, without a newline."""
    return _encode(_escape(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))


_second_text: tuple[int, str] = (-1, "")


def created_at() -> str:
    """Now, in UTC, RFC 3339, up to nine fractional digits, trailing zeros cut."""
    global _second_text
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    if _second_text[0] != seconds:
        _second_text = (seconds, datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{_second_text[1]}{fraction}Z"


def local_time(unix_s: float) -> str:
    """`unix_s` with the server's own offset, as `modified_at` and `expires_at` have it."""
    return datetime.fromtimestamp(unix_s).astimezone().isoformat()


def full_name(name: str) -> str:
    """The name with its tag: `x` is `x:latest`."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def lookup_key(name: str) -> str:
    """What two spellings of one model have in common."""
    return full_name(name).lower()


def require_valid_name(name: str) -> None:
    """Refuse a name that Ollama does not parse."""
    if not _NAME.match(name):
        raise Refusal(400, "invalid model name")


def parse_body(body: bytes) -> dict[str, Any]:
    """The first JSON value of `body`, top-level keys in lower case; refuses with texts like Go's."""
    if not body.strip():
        raise Refusal(400, "missing request body")
    try:
        value = json.loads(body)
    except ValueError:
        value = _first_value(body.decode("utf-8", "replace").lstrip())
    if not isinstance(value, dict):
        kinds = {str: "string", list: "array", bool: "bool", int: "number", float: "number"}
        kind = kinds.get(type(value), "value")
        raise Refusal(400, f"json: cannot unmarshal {kind} into Go value of type api.ChatRequest")
    if any(key != key.lower() for key in value):
        value = {key.lower(): item for key, item in value.items()}
    return value


def _first_value(text: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise Refusal(400, "unexpected EOF") from error
        looking = "object key string" if "property name" in error.msg else "value"
        char = text[error.pos]
        raise Refusal(400, f"invalid character '{char}' looking for beginning of {looking}") from error


def keep_alive_s(value: Any) -> float | None:
    """Seconds from a number or a Go duration; negative means for ever, `None` means "not given"."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value)
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if digits == "0":
        return 0.0
    parts = _DURATION_PART.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        reason = "missing unit in duration" if re.fullmatch(r"[0-9.]+", digits) else "invalid duration"
        raise Refusal(400, f'time: {reason} "{text}"')
    return sign * sum(float(number) * _DURATION_UNIT_S[unit] for number, unit in parts)


def text_field(body: dict[str, Any], name: str) -> str:
    """A string field, "" when absent; refuses another type."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refusal(400, f"json: cannot unmarshal value into Go struct field .{name} of type string")
    return value
