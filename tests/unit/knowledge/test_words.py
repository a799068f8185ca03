"""Words of any alphabet; archives that speak of the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.knowledge.markdown import plain
from master.knowledge.messages import Conversation, Said, clean, dump, hash_of, load, title_of
from master.knowledge.quick import extract, usable
from master.knowledge.related import rank, terms_of
from master.knowledge.words import fold, share_found, stems, words


def test_words_of_many_scripts_are_found() -> None:
    assert words("Straße ÉCOLE 007") == ["strasse", "ecole", "7"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words("数据库") == ["数据", "据库"]
    assert words("iPhone15, 007!") == ["iphone", "15", "7"]
    assert words("iPhone15, 007 für 数") == ["iphone", "15", "7", "fur", "数"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ΜΑΡΙΑ", "Μαρία"),  # noqa: RUF001  # Greek
        ("ΟΔΟΣ", "οδός"),
        ("Ångström", "ANGSTROM"),
        ("ｶﾞｽ", "ガス"),
        ("한국", "\u1112\u1161\u11ab국"),
    ],
    ids=["greek", "sigma", "rings", "half width", "hangul"],
)
def test_spellings_that_people_take_for_one_are_one(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_marks_that_make_another_word_stay() -> None:
    assert fold("かき") != fold("かぎ")
    assert fold("हिन्दी") == "हिन्दी"


@given(st.text())
def test_a_text_supports_itself(text: str) -> None:
    assert share_found(text, stems(text)) in (0.0, 1.0)


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(st.characters()))))
def test_a_conversation_is_stored_and_read_the_same(pairs: list[tuple[str, str]]) -> None:
    messages = tuple(Said(role, clean(text)) for role, text in pairs)
    assert load(dump(messages)) == messages
    assert hash_of(dump(messages)) == hash_of(dump(load(dump(messages))))
    dump(messages).encode()


def test_a_conversation_without_a_title_is_called_by_its_first_question() -> None:
    talk = (Said("system", "Be kind."), Said("user", "What is\nRust?"))
    assert title_of(Conversation(talk)) == "What is Rust?"
    assert title_of(Conversation(talk, " A  title ")) == "A title"
    assert len(title_of(Conversation((Said("user", "x" * 500),)))) == 120


def test_rare_shared_terms_count_more_than_common_ones() -> None:
    own = terms_of([("the zeppelin hangar was built near the lake, the hangar stands", 1)])
    others = [("far", "built"), ("far", "near"), ("close", "zeppelin"), ("close", "hangar"), ("one", "lake")]
    found = rank(own, others, {"built": 40, "near": 50, "zeppelin": 2, "hangar": 2, "lake": 3}, 100)
    assert [one.archive_id for one in found] == ["close", "far"]
    assert found[0].terms == ("hangar", "zeppelin")
    assert 0 < found[1].score < found[0].score < 1


def test_a_quick_summary_that_the_conversation_does_not_support_is_not_used() -> None:
    talk = [Said("user", "Which city has the oldest metro?"), Said("assistant", "London. It opened in 1863.")]
    assert extract(talk) == "Which city has the oldest metro? → London. It opened in 1863."
    assert usable("- The oldest metro is in London.", talk) == "The oldest metro is in London."
    assert usable("As a language model I cannot say.", talk) is None
    assert usable("None", talk) is None


@given(st.text())
def test_no_text_leaves_its_line_or_becomes_markup(text: str) -> None:
    line = plain(text)
    assert "\n" not in line
    assert "<" not in line.replace("\\<", "")
    json.dumps(line)
