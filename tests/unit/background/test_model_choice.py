"""Which model does background work when nobody named one."""

from __future__ import annotations

import pytest

from master.background.candidates import BACKGROUND_MODELS, DEFAULT_BACKGROUND_MODEL
from master.background.model_choice import Offered, choose_model

BIG, SMALL = Offered("big", 9_000_000_000), Offered("small", 800_000_000)


def offered(*names: str) -> list[Offered]:
    return [Offered(name, 2_000_000_000) for name in names]


def test_the_model_of_the_setting_is_taken_and_needs_no_word() -> None:
    chosen = choose_model([*offered(DEFAULT_BACKGROUND_MODEL), BIG], "big")
    assert chosen is not None
    assert (chosen.name, chosen.note) == ("big", None)


def test_without_a_setting_the_default_is_taken() -> None:
    chosen = choose_model([BIG, SMALL, *offered(DEFAULT_BACKGROUND_MODEL)], None)
    assert chosen is not None
    assert (chosen.name, chosen.note) == (DEFAULT_BACKGROUND_MODEL, None)


@pytest.mark.parametrize("wanted", [None, "llama3.2:70b"], ids=["unset", "absent"])
def test_the_candidates_follow_in_their_order_and_it_is_said(wanted: str | None) -> None:
    names = [one.name for one in BACKGROUND_MODELS if one.name != DEFAULT_BACKGROUND_MODEL]
    for number, name in enumerate(names):
        chosen = choose_model([SMALL, *offered(*reversed(names[number:]))], wanted)
        assert chosen is not None
        assert chosen.name == name
        assert chosen.note is not None
        assert (wanted or DEFAULT_BACKGROUND_MODEL) in chosen.note


def test_else_the_smallest_is_taken_and_a_practice_model_last() -> None:
    practice = Offered("practice", 1_000, practice=True)
    chosen = choose_model([practice, BIG, SMALL], None)
    assert chosen is not None
    assert chosen.name == "small"
    chosen = choose_model([practice], None)
    assert chosen is not None
    assert "means nothing" in (chosen.note or "")
    assert choose_model([], None) is None


def test_both_spellings_of_a_model_are_one() -> None:
    chosen = choose_model(offered("phi3.5:latest"), "phi3.5:mini")
    assert chosen is not None
    assert (chosen.name, chosen.note) == ("phi3.5:latest", None)
