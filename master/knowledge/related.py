"""Which archives speak of the same: shared terms, the rare ones counting most. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from master.knowledge.words import telling, words

MOST_TERMS = 48  # of one archive
MOST_RELATED = 8
_COMMON = 0.5  # a term in more than this share of many archives says nothing
_MANY = 8
_LEAST_SHARED = 2


@dataclass(frozen=True, slots=True)
class Related:
    """`score` is 0 to 1: the share of the weight of our terms that the other has as well."""

    archive_id: str
    score: float
    terms: tuple[str, ...]


def terms_of(texts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The terms that stand for an archive with how often they occur; each text has a weight."""
    counted: Counter[str] = Counter()
    for text, weight in texts:
        for word, count in Counter(telling(words(text))).items():
            if not (word.isdigit() and len(word) < 3) and len(word) <= 60:
                counted[word] += weight * count
    return dict(sorted(counted.items(), key=lambda one: (-one[1], one[0]))[:MOST_TERMS])


def rank(
    own: Mapping[str, int],
    others: Iterable[tuple[str, str]],
    frequency: Mapping[str, int],
    total: int,
) -> list[Related]:
    """The nearest archives of `others`, pairs of (archive id, term that it shares with us).

    `frequency` tells how many of all `total` archives have a term.
    """
    weight = {term: _weight(count, frequency.get(term, 1), total) for term, count in own.items()}
    whole = sum(weight.values())
    shared: defaultdict[str, set[str]] = defaultdict(set)
    for archive_id, term in others:
        if weight.get(term, 0.0) > 0:
            shared[archive_id].add(term)
    found = [
        Related(archive_id, round(sum(weight[one] for one in terms) / whole, 3), _best(terms, weight))
        for archive_id, terms in shared.items()
        if len(terms) >= _LEAST_SHARED
    ]
    return sorted(found, key=lambda one: (-one.score, one.archive_id))[:MOST_RELATED]


def _weight(count: int, frequency: int, total: int) -> float:
    if total >= _MANY and frequency > _COMMON * total:
        return 0.0
    return (1 + math.log(count)) * math.log(1 + total / frequency)


def _best(terms: Iterable[str], weight: Mapping[str, float]) -> tuple[str, ...]:
    ranked: Sequence[str] = sorted(terms, key=lambda term: (-weight[term], term))
    return tuple(ranked[:6])
