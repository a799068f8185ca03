"""Ballots: what is read is what was voted, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.council.ballots import (
    MAX_REASONING,
    Ballot,
    BallotProblem,
    ballot_schema,
    parse_ballot,
    worst_case_tokens,
)
from master.council.budget import count_bytes

LABELS = ["K", "M", "T"]


def vote(label: Any = "K", score: Any = 7, reasoning: Any = "clear") -> dict[str, Any]:
    return {"label": label, "reasoning": reasoning, "score": score}


def text_of(*votes: dict[str, Any]) -> str:
    return json.dumps({"rankings": votes})


def test_a_whole_ballot_is_read_in_the_order_of_the_labels() -> None:
    ballot = parse_ballot(text_of(vote("T", 1), vote("K", 10), vote("M", 5)), LABELS)
    assert isinstance(ballot, Ballot)
    assert [(one.label, one.score) for one in ballot.votes] == [("K", 10), ("M", 5), ("T", 1)]


WHOLE = [vote("K"), vote("M"), vote("T")]


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("", "JSON"),
        ("K is the best, then M: 9, 8, 7", "JSON"),
        (f"Here is my ballot: {text_of(*WHOLE)}", "JSON"),
        (f"{text_of(*WHOLE)} I hope this helps", "JSON"),
        (f"```json\n{text_of(*WHOLE)}\n```", "JSON"),
        (text_of(*WHOLE)[:-3], "JSON"),
        ("[]", "rankings"),
        ("null", "rankings"),
        (json.dumps({"rankings": {"K": 7}}), "array"),
        (json.dumps({"rankings": WHOLE, "winner": "K"}), "one key"),
        (json.dumps({"votes": WHOLE}), "rankings"),
        (text_of(vote("K"), vote("M")), "missing label: T"),
        (text_of(), "missing labels: K, M, T"),
        (text_of(*WHOLE, vote("K")), "K stands twice"),
        (text_of(vote("K"), vote("K"), vote("T")), "K stands twice"),
        (text_of(vote("K"), vote("M"), vote("X")), '"X" is not one of the labels'),
        (text_of(vote("k"), vote("M"), vote("T")), '"k" is not'),
        (text_of(vote("Answer K"), vote("M"), vote("T")), "is not one"),
        (text_of(vote(["K"]), vote("M"), vote("T")), "is not one"),
        (text_of(vote("K", "7"), vote("M"), vote("T")), 'whole number from 1 to 10, not "7"'),
        (text_of(vote("K", 7.0), vote("M"), vote("T")), "not 7.0"),
        (text_of(vote("K", 7.5), vote("M"), vote("T")), "whole number"),
        (text_of(vote("K", True), vote("M"), vote("T")), "whole number"),
        (text_of(vote("K", None), vote("M"), vote("T")), "whole number"),
        (text_of(vote("K", 0), vote("M"), vote("T")), "whole number"),
        (text_of(vote("K", 11), vote("M"), vote("T")), "whole number"),
        (text_of(vote("K", -3), vote("M"), vote("T")), "whole number"),
        (text_of(vote("K", 7, None), vote("M"), vote("T")), "must be text"),
        (text_of({"label": "K", "score": 7}, vote("M"), vote("T")), "exactly the keys"),
        (text_of({**vote("K"), "rank": 1}, vote("M"), vote("T")), "exactly the keys"),
        (text_of("K", vote("M"), vote("T")), "exactly the keys"),  # type: ignore[arg-type]
        ('{"rankings": [], "rankings": []}', "same key twice"),
        ('{"rankings": [{"label": "K", "reasoning": "", "score": 1, "score": 9}]}', "same key twice"),
        ('{"rankings": [{"label": "K", "reasoning": "", "score": NaN}]}', "not a JSON number"),
        ("[" * 100_000, "nested"),
        ('{"rankings": [' + "9" * 5000 + "]}", "JSON"),
    ],
)
def test_anything_else_is_a_problem_that_says_why(text: str, because: str) -> None:
    problem = parse_ballot(text, LABELS)
    assert isinstance(problem, BallotProblem)
    assert because in problem.detail


def test_reasoning_that_no_database_takes_is_made_storable() -> None:
    raw = '{"rankings": [{"label": "K", "reasoning": "a\\ud800b\\u0000c", "score": 3}]}'
    ballot = parse_ballot(raw, ["K"])
    assert isinstance(ballot, Ballot)
    assert ballot.votes[0].reasoning == "a?bc"


def test_the_schema_bounds_everything_and_asks_for_the_critique_before_the_score() -> None:
    schema = ballot_schema(LABELS, 120)
    rankings = schema["properties"]["rankings"]
    entry = rankings["items"]
    assert (rankings["minItems"], rankings["maxItems"]) == (3, 3)
    assert list(entry["properties"]) == ["label", "reasoning", "score"] == entry["required"]
    assert entry["properties"]["label"]["enum"] == LABELS
    assert entry["properties"]["reasoning"]["maxLength"] == 120
    assert entry["properties"]["score"] == {"type": "integer", "minimum": 1, "maximum": 10}
    assert schema["additionalProperties"] is False
    assert entry["additionalProperties"] is False


@given(st.integers(1, 15), st.integers(1, MAX_REASONING), st.sampled_from(["a", "é", "語", '"']))
def test_the_worst_case_holds_the_longest_ballot_of_the_schema(count: int, length: int, letter: str) -> None:
    longest = {"rankings": [vote("K", 10, letter * length) for _ in range(count)]}
    written = json.dumps(longest, ensure_ascii=False, indent=4)
    if letter == '"':
        # JSON spells it with two characters: a tenth is kept for such, not the double.
        written = written.replace('\\"', '"')
    assert count_bytes(written) <= worst_case_tokens(count, length, count_bytes(letter)) + 80 * count


scores = st.one_of(st.integers(-2, 13), st.floats(), st.text(max_size=3), st.booleans(), st.none())
entries = st.fixed_dictionaries(
    {"label": st.sampled_from([*LABELS, "X", ""]), "reasoning": st.text(), "score": scores}
)


@given(st.lists(entries, max_size=5))
def test_a_ballot_never_holds_a_vote_that_was_not_cast(votes: list[dict[str, Any]]) -> None:
    read = parse_ballot(json.dumps({"rankings": votes}), LABELS)
    valid = sorted(one["label"] for one in votes) == LABELS and all(
        type(one["score"]) is int and 1 <= one["score"] <= 10 for one in votes
    )
    assert isinstance(read, Ballot) is valid
    if isinstance(read, Ballot):
        assert {(one.label, one.score) for one in read.votes} == {(o["label"], o["score"]) for o in votes}


@given(st.text())
def test_random_text_is_never_a_ballot(text: str) -> None:
    assert isinstance(parse_ballot(text, LABELS), BallotProblem)


@given(st.permutations(LABELS), st.lists(st.integers(1, 10), min_size=3, max_size=3), st.text())
def test_a_valid_ballot_comes_back_as_it_was_cast(
    order: list[str], given_scores: list[int], word: str
) -> None:
    votes = [vote(label, score, word) for label, score in zip(order, given_scores, strict=True)]
    read = parse_ballot(text_of(*votes), LABELS)
    assert isinstance(read, Ballot)
    assert {one.label: one.score for one in read.votes} == dict(zip(order, given_scores, strict=True))
