"""Ranking: Borda, Kemeny and agreement over what each judge really ranked."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.council.ranking import Ranking, durbin_w, kemeny, mean_kendall_tau, rank

Ballots = dict[str, dict[str, int]]


def names(count: int) -> list[str]:
    return [f"agent_{number}" for number in range(1, count + 1)]


@st.composite
def councils(draw: st.DrawFn, largest: int = 7, complete: bool = False) -> tuple[list[str], Ballots]:
    """Answers and ballots of a council under recusal; some judges may have abstained."""
    answers = names(draw(st.integers(2, largest)))
    judges = answers if complete else draw(st.lists(st.sampled_from(answers), unique=True))
    ballots = {
        judge: {answer: draw(st.integers(1, 10)) for answer in answers if answer != judge} for judge in judges
    }
    return answers, ballots


def ranks(ranking: Ranking) -> dict[str, int]:
    return {entry.agent_id: entry.rank for entry in ranking.entries}


def test_one_order_of_all_judges_is_the_result_with_full_agreement() -> None:
    truth = {"agent_1": 9, "agent_2": 7, "agent_3": 4}
    ballots = {judge: {a: s for a, s in truth.items() if a != judge} for judge in truth}
    ranking = rank(list(truth), ballots)
    assert ranks(ranking) == {"agent_1": 1, "agent_2": 2, "agent_3": 3}
    assert [entry.borda for entry in ranking.entries] == [1.0, 0.5, 0.0]
    assert (ranking.agreement, ranking.contested, ranking.leader) == (1.0, False, "agent_1")


def test_a_circle_of_preferences_is_a_tie_and_contested() -> None:
    ballots = {
        "agent_1": {"agent_2": 6, "agent_3": 5},
        "agent_2": {"agent_3": 6, "agent_1": 5},
        "agent_3": {"agent_1": 6, "agent_2": 5},
    }
    ranking = rank(names(3), ballots)
    assert set(ranks(ranking).values()) == {1}
    assert (ranking.agreement, ranking.contested) == (0.0, True)


def test_ties_share_a_rank_and_the_next_rank_is_skipped() -> None:
    ballots = {
        "agent_4": {"agent_1": 8, "agent_2": 8, "agent_3": 3},
    }
    ranking = rank(names(4), ballots)
    assert ranks(ranking) == {"agent_1": 1, "agent_2": 1, "agent_3": 3}
    assert [entry.borda for entry in ranking.entries] == [0.75, 0.75, 0.0]


def test_borda_counts_what_a_judge_preferred_and_not_how_high_its_figures_are() -> None:
    ballots = {
        "agent_1": {"agent_2": 2, "agent_3": 1},
        "agent_2": {"agent_1": 1, "agent_3": 10},
        "agent_3": {"agent_1": 1, "agent_2": 2},
    }
    ranking = rank(names(3), ballots)
    assert ranking.order == ("agent_2", "agent_3", "agent_1")
    assert next(one for one in ranking.entries if one.agent_id == "agent_3").mean_score == 5.5


def test_equal_borda_is_broken_by_the_mean_score_and_still_shown_as_a_tie() -> None:
    ballots = {
        "agent_3": {"agent_1": 3, "agent_2": 2, "agent_4": 1},
        "agent_4": {"agent_1": 7, "agent_2": 9, "agent_3": 1},
    }
    ranking = rank(names(4), ballots)
    assert ranking.order[:2] == ("agent_2", "agent_1")
    assert ranks(ranking)["agent_1"] == ranks(ranking)["agent_2"] == 1


def test_of_two_answers_only_the_scores_decide() -> None:
    ranking = rank(names(2), {"agent_1": {"agent_2": 4}, "agent_2": {"agent_1": 8}})
    assert ranks(ranking) == {"agent_1": 1, "agent_2": 2}
    assert {entry.borda for entry in ranking.entries} == {0.5}
    assert (ranking.agreement, ranking.contested) == (None, False)


def test_judges_who_tie_everything_agree_on_nothing_and_quarrel_about_nothing() -> None:
    ballots = {judge: {a: 8 for a in names(3) if a != judge} for judge in names(3)}
    ranking = rank(names(3), ballots)
    assert set(ranks(ranking).values()) == {1}
    assert (ranking.agreement, ranking.contested) == (None, False)


def test_an_answer_that_nobody_judged_is_not_ranked() -> None:
    ranking = rank(names(3), {"agent_1": {"agent_2": 4, "agent_3": 8}})
    assert set(ranks(ranking)) == {"agent_2", "agent_3"}


def test_without_ballots_there_is_no_ranking() -> None:
    assert rank(names(3), {}) == Ranking()


@pytest.mark.parametrize("scores", [{"agent_1": 5}, {"agent_9": 5}])
def test_a_vote_for_oneself_or_for_nobody_is_refused(scores: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must not"):
        rank(names(3), {"agent_1": scores})


def test_a_borda_leader_that_no_kemeny_order_puts_first_makes_the_result_contested() -> None:
    # Four of six judges prefer answer 7 to 8; answer 8 gathers more points from the ranks below.
    order_a = {"agent_7": 9, "agent_8": 8, "agent_9": 2}
    order_b = {"agent_8": 9, "agent_9": 8, "agent_7": 1}
    ballots = {judge: order_a for judge in names(3)} | {judge: order_b for judge in names(5)[3:]}
    ranking = rank([*names(5), "agent_7", "agent_8", "agent_9"], ballots)
    assert ranking.order[0] == "agent_8"
    assert ranking.kemeny is not None
    assert ranking.kemeny["agent_7"] == 0
    assert (ranking.kemeny_agrees, ranking.contested) == (False, True)


def test_durbins_w_of_one_common_order_is_one() -> None:
    truth = {name: 10 - place for place, name in enumerate(names(5))}
    same = {judge: {a: s for a, s in truth.items() if a != judge} for judge in truth}
    assert durbin_w(names(5), same) == pytest.approx(1.0)


def test_kendalls_tau_runs_from_minus_one_to_one() -> None:
    up, down = {"a": 1, "b": 2, "c": 3}, {"a": 3, "b": 2, "c": 1}
    assert mean_kendall_tau({"x": up, "y": up}) == pytest.approx(1.0)
    assert mean_kendall_tau({"x": up, "y": down}) == pytest.approx(-1.0)
    assert mean_kendall_tau({"x": up}) is None
    assert mean_kendall_tau({"x": up, "y": {"a": 5, "b": 5, "c": 5}}) is None


def brute_kemeny(answers: list[str], ballots: Ballots) -> tuple[dict[str, int], frozenset[str]]:
    def price(order: tuple[str, ...]) -> int:
        return sum(
            scores[order[i]] < scores[order[j]]
            for scores in ballots.values()
            for i in range(len(order))
            for j in range(i + 1, len(order))
            if order[i] in scores and order[j] in scores
        )

    orders = list(permutations(answers))
    least = min(price(order) for order in orders)
    best = [order for order in orders if price(order) == least]
    places = {answer: min(order.index(answer) for order in best) for answer in answers}
    return places, frozenset(order[0] for order in best)


@given(councils(largest=6))
def test_kemeny_is_exact(council: tuple[list[str], Ballots]) -> None:
    assert kemeny(*council) == brute_kemeny(*council)


@given(councils(), st.data())
def test_renaming_the_agents_renames_the_result(
    council: tuple[list[str], Ballots], data: st.DataObject
) -> None:
    answers, ballots = council
    new = dict(zip(answers, data.draw(st.permutations(answers)), strict=True))
    renamed = {new[judge]: {new[a]: s for a, s in scores.items()} for judge, scores in ballots.items()}
    before, after = rank(answers, ballots), rank(answers, renamed)
    assert {(new[e.agent_id], e.rank, e.borda, e.mean_score, e.votes) for e in before.entries} == {
        (e.agent_id, e.rank, e.borda, e.mean_score, e.votes) for e in after.entries
    }
    assert (before.agreement, before.contested) == (after.agreement, after.contested)


@given(councils(largest=10))
def test_figures_stay_in_their_ranges(council: tuple[list[str], Ballots]) -> None:
    answers, ballots = council
    ranking = rank(answers, ballots)
    for entry in ranking.entries:
        assert 0.0 <= entry.borda <= 1.0
        assert 1.0 <= entry.mean_score <= 10.0
        assert entry.votes == sum(entry.agent_id in scores for scores in ballots.values()) > 0
    assert ranking.agreement is None or -1.0 <= ranking.agreement <= 1.0
    assert [entry.rank for entry in ranking.entries] == sorted(entry.rank for entry in ranking.entries)


@given(councils(complete=True))
def test_complete_ballots_measure_agreement_between_zero_and_one(council: tuple[list[str], Ballots]) -> None:
    agreement = rank(*council).agreement
    assert agreement is None or 0.0 <= agreement <= 1.0


@given(st.permutations(names(6)))
def test_a_unanimous_order_is_the_order(order: list[str]) -> None:
    truth = {name: 10 - place for place, name in enumerate(order)}
    ballots = {judge: {a: s for a, s in truth.items() if a != judge} for judge in order}
    ranking = rank(names(6), ballots)
    assert list(ranking.order) == order
    assert (ranking.agreement, ranking.contested) == (1.0, False)
