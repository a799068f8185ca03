"""What a caller may set in `options`, checked at the node's edge.

An engine that refuses an option does so late and as a failure of its own (Ollama: status 500), which would
be retried on other nodes in vain. So names and types are checked before a call takes a slot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from common.errors import InvalidRequestError
from common.protocol import LOAD_TIME_OPTIONS, RUN_TIME_OPTIONS, GenerateRequest

_WHOLE_NUMBERS = frozenset({"top_k", "seed", "num_predict", "repeat_last_n"})
_INT64 = 2**63


def checked(request: GenerateRequest) -> GenerateRequest:
    """The request, with its options cleaned (`null` removed, a single `stop` made a list).

    Raises `InvalidRequestError` that names what to change.
    """
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequestError("send exactly one of `prompt` and `messages`", model=request.model)
    if request.prompt == "" or request.messages == []:
        raise InvalidRequestError("the prompt is empty", model=request.model)
    if not request.options:
        return request
    return msgspec.structs.replace(request, options=checked_options(request.options))


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are set. Raises `InvalidRequestError` for load-time, unknown and ill-typed ones."""
    load_time = sorted(options.keys() & LOAD_TIME_OPTIONS)
    if load_time:
        raise InvalidRequestError(
            f"{', '.join(load_time)} cannot be set per call: changing it makes the engine reload the model "
            "for everybody. The node's settings decide it (COUNCIL_NODE_CONTEXT for the context)."
        )
    unknown = sorted(options.keys() - RUN_TIME_OPTIONS)
    if unknown:
        raise InvalidRequestError(
            f"unknown option {', '.join(unknown)}; known are: {', '.join(sorted(RUN_TIME_OPTIONS))}"
        )
    return {name: _typed(name, value) for name, value in options.items() if value is not None}


def _typed(name: str, value: Any) -> Any:
    if name == "stop":
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
            raise InvalidRequestError("option stop must be a string or a list of strings, none of them empty")
        return stops
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequestError(f"option {name} must be a number")
    if name not in _WHOLE_NUMBERS:
        return value
    if value != int(value) or not -_INT64 <= value < _INT64:
        raise InvalidRequestError(f"option {name} must be a whole number")
    return int(value)
