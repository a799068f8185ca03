"""The `options` object: types, defaults, and which of them are load-time (section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.standin.wire import Refusal

LOAD_DEFAULTS: dict[str, Any] = {
    "num_batch": 512,
    "num_gpu": -1,
    "main_gpu": 0,
    "use_mmap": None,
    "num_thread": 0,
    "draft_num_predict": 0,
}
_INTEGERS = frozenset(
    "num_ctx num_batch num_gpu main_gpu num_thread draft_num_predict num_keep seed num_predict top_k "
    "repeat_last_n".split()
)
_FLOATS = frozenset(
    "top_p min_p typical_p temperature repeat_penalty presence_penalty frequency_penalty".split()
)


@dataclass(frozen=True)
class Options:
    """Checked options of one request."""

    num_ctx: int | None
    num_predict: int
    stop: tuple[str, ...]
    load: dict[str, Any]

    def context(self, default: int, training: int) -> int:
        """Tokens of a slot's context for this request."""
        return max(4, min(self.num_ctx or default, training))

    def load_key(self, context: int, shift: bool) -> tuple[tuple[str, Any], ...]:
        """Two requests with different keys cannot share a loaded runner."""
        return (("num_ctx", context), ("shift", shift), *sorted(self.load.items()))

    def token_limit(self, context: int) -> int:
        """`num_predict` bounded to ten contexts."""
        bound = 10 * context
        return bound if self.num_predict < 0 else min(self.num_predict, bound)


def parse_options(value: Any) -> Options:
    """Check the types as Ollama does: unknown names are ignored, null too, a wrong type is a 500."""
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise Refusal(
            400, "json: cannot unmarshal value into Go struct field .options of type map[string]interface {}"
        )
    known: dict[str, Any] = {}
    for name, given in value.items():
        if given is None:
            continue
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if name in _INTEGERS:
            if not number:
                raise Refusal(500, f'option "{name}" must be of type integer')
            known[name] = int(given)
        elif name in _FLOATS:
            if not number:
                raise Refusal(500, f'option "{name}" must be of type float32')
        elif name == "use_mmap":
            if not isinstance(given, bool):
                raise Refusal(500, 'option "use_mmap" must be of type boolean')
            known[name] = given
        elif name == "stop":
            if not isinstance(given, list):
                raise Refusal(500, 'option "stop" must be of type array')
            if not all(isinstance(item, str) for item in given):
                raise Refusal(500, 'option "stop" must be of an array of strings')
            known[name] = tuple(given)
    return Options(
        num_ctx=known.get("num_ctx"),
        num_predict=known.get("num_predict", -1),
        stop=known.get("stop", ()),
        load={name: known.get(name, default) for name, default in LOAD_DEFAULTS.items()},
    )
