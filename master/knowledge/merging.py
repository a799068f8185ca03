"""Joining what the chunks of one conversation gave, without a model. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from master.knowledge.sections import MAX_SUMMARY, NAMES, Item, Sections, normal, tidy
from master.knowledge.words import overlap

SAME = 0.9  # Jaccard's index of the words from which on two lines are one


def merge(parts: Sequence[Sections]) -> Sections:
    """All items in order; of those that say the same in nearly the same words the first stays.

    The summary is that of the parts, one after the other, at most `MAX_SUMMARY` characters: of several parts
    a model may write a better one.
    """
    items = {name: tuple(_distinct(one for part in parts for one in part.of(name))) for name in NAMES}
    return Sections(join_summaries([part.summary for part in parts]), items)


def join_summaries(summaries: Iterable[str]) -> str:
    """One text of several: each gets an equal share of the length where they are too long together."""
    given = [one for one in summaries if one]
    if sum(map(len, given)) + len(given) <= MAX_SUMMARY:
        return " ".join(given)
    share = max(40, MAX_SUMMARY // len(given) - 1)
    return tidy(" ".join(tidy(one, share) for one in given), MAX_SUMMARY)


def _distinct(items: Iterable[Item]) -> Iterable[Item]:
    kept: list[frozenset[str]] = []
    for item in items:
        said = frozenset(normal(item.text).split())
        if not any(overlap(said, other) >= SAME for other in kept):
            kept.append(said)
            yield item
