"""The budget: a prompt never outgrows its context by our own estimate, and what is cut is marked and told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.council.budget import (
    count_bytes,
    cut_middle,
    estimate_messages,
    estimate_tokens,
    marker,
    share,
)
from master.council.plan import SessionPlan, Turn
from tests.unit.council.table import Table, good, plan_of

MARK = re.compile(r"\[… [\d,]+ characters left out …\]")


@pytest.mark.parametrize(
    ("text", "at_least"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 20, 200),  # 10 words and a stop
        ("Die Donaudampfschifffahrtsgesellschaft wird aufgelöst. " * 20, 260),
        ("12345678" * 10, 80),
        ("{}[]();,!=" * 10, 50),
        ("日本語の文章です。" * 10, 90),
        ("Быстрая коричневая лиса. " * 10, 80),
        ("😀" * 10, 20),
        ("def f(x):\n    return x ** 2\n" * 10, 120),
    ],
)
def test_the_estimate_is_on_the_safe_side_of_known_vocabularies(text: str, at_least: int) -> None:
    assert at_least <= estimate_tokens(text) <= count_bytes(text)


@given(st.text(), st.text())
def test_a_part_costs_no_more_inside_a_text_than_alone(one: str, two: str) -> None:
    assert max(estimate_tokens(one), estimate_tokens(two)) <= estimate_tokens(one + two)
    assert estimate_tokens(one + two) <= estimate_tokens(one) + estimate_tokens(two)


@given(st.text(min_size=1, max_size=400), st.integers(30, 200))
def test_a_cut_text_fits_and_is_marked_and_a_whole_one_is_not(text: str, limit: int) -> None:
    kept, gone = cut_middle(text, limit)
    assert estimate_tokens(kept) <= limit
    if gone:
        head, tail = kept.split(marker(gone))
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(head) + len(tail) + gone == len(text)
    else:
        assert kept == text
    assert (gone > 0) == (estimate_tokens(text) > limit)


def test_the_marker_counts_in_thousands() -> None:
    assert marker(1234) == "[… 1,234 characters left out …]"


@given(st.lists(st.integers(0, 1000)), st.integers(0, 5000))
def test_shares_fill_the_room_and_spare_the_small(sizes: list[int], room: int) -> None:
    allowed = share(sizes, room)
    assert sum(allowed) <= room
    assert all(got <= size for got, size in zip(allowed, sizes, strict=True))
    if sum(sizes) <= room:
        assert allowed == sizes
    else:
        cut = [got for got, size in zip(allowed, sizes, strict=True) if got < size]
        assert all(got >= min(cut) for got in allowed if got not in sizes)
        assert max(cut) - min(cut) <= 1
        assert sum(allowed) >= room - len(sizes)


words = st.text(alphabet=st.sampled_from("abc e.,7é語😀\n"), min_size=1, max_size=300)


@st.composite
def tight_councils(draw: st.DrawFn) -> tuple[SessionPlan, dict[str, str]]:
    seats = draw(st.integers(1, 5))
    history = tuple(
        Turn(draw(words) * draw(st.integers(1, 20)), draw(words) * draw(st.integers(1, 20)))
        for _ in range(draw(st.integers(0, 3)))
    )
    plan = plan_of(
        *["m"] * seats,
        chairman="m",
        question=draw(words) * draw(st.integers(1, 30)),
        history=history,
        contexts={"m": draw(st.sampled_from([2048, 3000, 4096, 8192, 32768]))},
    )
    answers = {f"agent_{n}": "x" + draw(words) * draw(st.integers(1, 40)) for n in range(1, seats + 1)}
    return plan, answers


@given(tight_councils())
def test_prompt_and_answer_never_outgrow_the_context(council: tuple[SessionPlan, dict[str, str]]) -> None:
    plan, answers = council

    def script(call: Any) -> Any:
        return answers[call.agent_id] if call.stage == "opinions" else good(call)

    table = Table(plan, script).run()
    for call in table.calls:
        assert call.options["num_predict"] >= 1
        used = estimate_messages(call.messages) + call.options["num_predict"]
        assert used <= plan.context(call.model), call.stage
        trims = [
            trim
            for trim in table.session.trimmed
            if (trim.stage, trim.agent_id) == (call.stage, call.agent_id)
        ]
        marked = any(MARK.search(message.content) for message in call.messages)
        visible = [trim for trim in trims if trim.what == "question" or trim.what.startswith("answer of")]
        assert marked >= bool(visible)
        assert bool(trims) >= marked


def test_the_oldest_turns_go_first() -> None:
    history = tuple(Turn(f"question {n} " + "word " * 400, f"answer {n}") for n in range(6))
    table = Table(plan_of("m", history=history, contexts={"m": 2048})).run()
    texts = " ".join(message.content for message in table.calls[0].messages)
    assert "question 5" in texts
    assert "question 0" not in texts
    (trim,) = table.session.trimmed
    assert "earlier turn" in trim.what
    assert "left out" not in texts


def test_the_longest_answer_is_cut_and_the_short_ones_are_whole() -> None:
    answers = {"agent_1": "long " * 4000, "agent_2": "short one", "agent_3": "short two"}

    def script(call: Any) -> Any:
        return answers[call.agent_id] if call.stage == "opinions" else good(call)

    table = Table(plan_of("m", "m", "m", chairman="m", contexts={"m": 4096}), script).run()
    review = next(one for one in table.calls if one.stage == "review" and one.agent_id == "agent_2")
    assert "short two" in review.messages[-1].content
    assert MARK.search(review.messages[-1].content)
    trims = [trim for trim in table.session.trimmed if (trim.stage, trim.agent_id) == ("review", "agent_2")]
    assert [trim.what for trim in trims] == ["answer of agent_1"]
    assert f"{trims[0].characters:,} characters left out" in review.messages[-1].content


def test_many_answers_shorten_the_critiques_instead_of_overrunning_the_context() -> None:
    table = Table(plan_of(*["m"] * 16, contexts={"m": 4096})).run()
    review = next(one for one in table.calls if one.stage == "review")
    assert review.format is not None
    entry = review.format["properties"]["rankings"]["items"]["properties"]
    assert 40 <= entry["reasoning"]["maxLength"] < 400
    roomy = Table(plan_of(*["m"] * 3, contexts={"m": 8192})).run()
    whole = next(one for one in roomy.calls if one.stage == "review")
    assert whole.format is not None
    assert whole.format["properties"]["rankings"]["items"]["properties"]["reasoning"]["maxLength"] == 400


def test_the_users_limit_bounds_the_answer_and_no_limit_means_the_room_that_is_left() -> None:
    limited = Table(plan_of("m", options={"num_predict": 33}, contexts={"m": 4096})).run().calls[0]
    free = Table(plan_of("m", contexts={"m": 4096})).run().calls[0]
    assert limited.options["num_predict"] == 33
    assert free.options["num_predict"] == 4096 - estimate_messages(free.messages)
