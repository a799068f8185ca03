"""From ballots to a ranking: normalised Borda, an exact Kemeny order beside it, and how far judges agree.

All sums are exact fractions, so that a tie is a tie; they are rounded where they leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import combinations
from math import sqrt
from typing import Any

Ballots = Mapping[str, Mapping[str, int]]  # reviewer → answer → score

KEMENY_LIMIT = 8  # answers; the exact search doubles with each more
CONTESTED_W = 0.5  # Durbin's W below this is contested: weaker than "moderate" in Kendall's usual reading
CONTESTED_TAU = 0.25  # the same for the mean pairwise Kendall τ, whose zero is chance
DIGITS = 4


@dataclass(frozen=True, slots=True)
class RankEntry:
    """One answer. Equal ranks are ties; `borda` 0..1; `votes` counts the ballots that judged it."""

    agent_id: str
    rank: int
    borda: float
    mean_score: float
    votes: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """`entries` by rank; an answer that no ballot judged is not among them.

    `agreement` is `None` where two judges never compared the same answers. `kemeny` holds every answer's
    best place (from 0) in the orders with the fewest disagreements, empty above `KEMENY_LIMIT` answers;
    `kemeny_agrees` tells whether one of Borda's leaders leads such an order.
    """

    entries: tuple[RankEntry, ...] = ()
    agreement: float | None = None
    contested: bool = False
    kemeny: Mapping[str, int] | None = None
    kemeny_agrees: bool = True

    @property
    def order(self) -> tuple[str, ...]:
        """Answers, the best first, ties broken: Borda, mean score, Kemeny place, agent number."""
        return tuple(entry.agent_id for entry in self.entries)

    @property
    def leader(self) -> str | None:
        return self.entries[0].agent_id if self.entries else None

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self.entries]


def rank(answers: Sequence[str], ballots: Ballots) -> Ranking:
    """Rank `answers` (in seat order) by ballots that may each judge some of them.

    With two answers every judge sees one, nothing is compared, and the mean score alone decides; Borda is the
    neutral 0.5 then. Scores of answers that are not in `answers`, and a judge's score of its own, raise
    `ValueError`: they would be wrong votes.
    """
    for judge, scores in ballots.items():
        if judge in scores or not set(scores) <= set(answers):
            raise ValueError(f"the ballot of {judge} judges answers that it must not")
    judged = [answer for answer in answers if any(answer in scores for scores in ballots.values())]
    if not judged:
        return Ranking()
    shares = {answer: _borda(answer, ballots) for answer in judged}
    means = {answer: _mean(_scores(answer, ballots)) for answer in judged}
    places, leaders = kemeny(judged, ballots) if len(judged) <= KEMENY_LIMIT else ({}, frozenset(judged))
    scores_only = all(len(scores) < 2 for scores in ballots.values())
    worth = means if scores_only else shares
    best_first = sorted(judged, key=lambda a: (-shares[a], -means[a], places.get(a, 0), answers.index(a)))
    entries = tuple(
        RankEntry(
            agent_id=answer,
            rank=1 + sum(worth[other] > worth[answer] for other in judged),
            borda=round(float(shares[answer]), DIGITS),
            mean_score=round(float(means[answer]), DIGITS),
            votes=len(_scores(answer, ballots)),
        )
        for answer in best_first
    )
    agrees = any(entry.agent_id in leaders for entry in entries if entry.rank == 1)
    agreement, low = _agreement(answers, ballots)
    return Ranking(entries, agreement, low or not agrees, places or None, agrees)


def _scores(answer: str, ballots: Ballots) -> list[int]:
    return [scores[answer] for scores in ballots.values() if answer in scores]


def _mean(values: Sequence[int | Fraction]) -> Fraction:
    return Fraction(sum(values)) / len(values)


def _borda(answer: str, ballots: Ballots) -> Fraction:
    """Mean over the judges of the share of the other answers that each put below this one; a tie counts half.

    The Borda count of de Borda (1784) in its tie-sharing ("tournament") form, divided by m-1 for a ballot
    of m answers so that ballots of different length weigh the same.
    """
    shares = []
    for scores in ballots.values():
        if answer not in scores:
            continue
        others = [score for other, score in scores.items() if other != answer]
        if not others:
            shares.append(Fraction(1, 2))
            continue
        mine = scores[answer]
        halves = sum(2 * (mine > score) + (mine == score) for score in others)
        shares.append(Fraction(halves, 2 * len(others)))
    return _mean(shares)


def kemeny(answers: Sequence[str], ballots: Ballots) -> tuple[dict[str, int], frozenset[str]]:
    """(best place of each answer, answers that lead) over all orders with the fewest disagreements.

    Kemeny (1959), exact by dynamic programming over subsets: O(2ⁿ n²).
    A judge's tie objects to neither order.
    """
    n = len(answers)
    against = [[0] * n for _ in range(n)]  # against[i][j]: judges who object to i before j
    for scores in ballots.values():
        for i, j in combinations(range(n), 2):
            if answers[i] in scores and answers[j] in scores:
                against[i][j] += scores[answers[i]] < scores[answers[j]]
                against[j][i] += scores[answers[j]] < scores[answers[i]]
    everyone = (1 << n) - 1
    # price[i][rest]: objections to putting i before all of the set `rest`
    price = [[0] * (everyone + 1) for _ in range(n)]
    for i, of_one in enumerate(price):
        for rest in range(1, everyone + 1):
            lowest = rest & -rest
            of_one[rest] = of_one[rest ^ lowest] + against[i][lowest.bit_length() - 1]

    after = [0] * (everyone + 1)  # after[placed]: least price of ordering those not placed yet
    for placed in range(everyone - 1, -1, -1):
        free = [i for i in range(n) if not placed >> i & 1]
        after[placed] = min(price[i][everyone & ~placed & ~(1 << i)] + after[placed | 1 << i] for i in free)
    places: dict[str, int] = {}
    reached = {0}
    for place in range(n):
        following = set()
        for placed in reached:
            for i in range(n):
                rest = everyone & ~placed & ~(1 << i)
                if not placed >> i & 1 and price[i][rest] + after[placed | 1 << i] == after[placed]:
                    places.setdefault(answers[i], place)
                    following.add(placed | 1 << i)
        reached = following
    return places, frozenset(answer for answer, place in places.items() if place == 0)


def _agreement(answers: Sequence[str], ballots: Ballots) -> tuple[float | None, bool]:
    """(agreement, whether it is low): Durbin's W where the design is complete, else the mean Kendall τ."""
    if not any(len(set(scores.values())) > 1 for scores in ballots.values()):
        return None, False  # nobody preferred anything: a tie, not a quarrel
    complete = len(answers) > 2 and all(
        set(ballots.get(judge, {})) == set(answers) - {judge} for judge in answers
    )
    if complete:
        w = durbin_w(answers, ballots)
        return round(w, DIGITS), w < CONTESTED_W
    tau = mean_kendall_tau(ballots)
    return (None, False) if tau is None else (round(tau, DIGITS), tau < CONTESTED_TAU)


def durbin_w(answers: Sequence[str], ballots: Ballots) -> float:
    """Agreement 0..1 of n judges who each rank the n-1 answers of the others.

    W = 12 S / [λ² n (n²-1)], λ = n-2: how often a pair of answers is judged by the same judge; S is the
    sum of squares of the rank sums about their mean (Durbin 1951; Kendall & Gibbons, Rank Correlation
    Methods, on incomplete rankings). Tied scores share their mean rank.
    """
    n = len(answers)
    sums = {answer: Fraction(0) for answer in answers}
    for scores in ballots.values():
        for answer, score in scores.items():
            higher = sum(other > score for other in scores.values())
            equal = sum(other == score for other in scores.values())
            sums[answer] += higher + Fraction(equal + 1, 2)
    mean = sum(sums.values(), Fraction(0)) / n
    s = sum(((one - mean) ** 2 for one in sums.values()), Fraction(0))
    return float(12 * s / ((n - 2) ** 2 * n * (n * n - 1)))


def mean_kendall_tau(ballots: Ballots) -> float | None:
    """Mean of Kendall's τ-b (-1..1; Kendall 1945) over the pairs of judges that share two answers or more.

    Pairs where one judge ties everything shared tell nothing and are left out; `None` when none is left.
    """
    found = [tau for a, b in combinations(ballots.values(), 2) if (tau := _kendall_tau(a, b)) is not None]
    return sum(found) / len(found) if found else None


def _kendall_tau(a: Mapping[str, int], b: Mapping[str, int]) -> float | None:
    balance = in_a = in_b = 0
    for x, y in combinations(sorted(a.keys() & b.keys()), 2):
        one, two = a[x] - a[y], b[x] - b[y]
        in_a += one != 0
        in_b += two != 0
        balance += (one * two > 0) - (one * two < 0)
    return balance / sqrt(in_a * in_b) if in_a and in_b else None
