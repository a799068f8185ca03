from __future__ import annotations

from typing import Any

import pytest

from common.errors import InvalidRequestError
from common.protocol import LOAD_TIME_OPTIONS, RUN_TIME_OPTIONS, GenerateRequest, Message
from worker_node.options import checked, checked_options


@pytest.mark.parametrize("name", sorted(LOAD_TIME_OPTIONS))
def test_an_option_that_would_reload_the_model_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=name) as refused:
        checked_options({name: 4})
    assert refused.value.status == 422


def test_an_unknown_option_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(InvalidRequestError, match="tempreature") as refused:
        checked_options({"tempreature": 1})
    assert all(name in refused.value.detail for name in RUN_TIME_OPTIONS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", [1]),
        ("top_k", 1.5),
        ("seed", 2**70),
        ("num_predict", "10"),
        ("stop", 3),
        ("stop", ["a", ""]),
        ("stop", [None]),
    ],
)
def test_an_option_of_the_wrong_type_is_refused_before_an_engine_sees_it(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=name):
        checked_options({name: value})


def test_options_are_cleaned() -> None:
    given = {"temperature": 0.5, "seed": None, "stop": "END", "top_k": 4.0}
    assert checked_options(given) == {"temperature": 0.5, "stop": ["END"], "top_k": 4}


@pytest.mark.parametrize(
    "fields",
    [{}, {"prompt": "a", "messages": [Message("user", "a")]}, {"prompt": ""}, {"messages": []}],
)
def test_a_call_has_exactly_one_prompt(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        checked(GenerateRequest(model="m", **fields))
