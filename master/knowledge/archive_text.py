"""The texts of an archive that are searched and compared. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from master.knowledge.messages import Said
from master.knowledge.related import terms_of
from master.knowledge.sections import NAMES, Sections
from master.knowledge.words import fold

_MOST_COMPARED = 200_000  # characters of a conversation that its terms are taken from


def search_text(
    title: str, quick_summary: str, messages: Sequence[Said], sections: Sections | None = None
) -> str:
    """Everything that a search looks at, folded: any alphabet is found in any case."""
    parts = [title, quick_summary, *(one.content for one in messages)]
    if sections is not None:
        parts += [sections.summary, *_lines(sections)]
    return fold("\n".join(parts))


def stored_terms(title: str, messages: Sequence[Said]) -> dict[str, int]:
    """The terms of an archive that is not structured yet: those of the person weigh double."""
    texts = [(title, 2)]
    left = _MOST_COMPARED
    for one in messages:
        texts.append((one.content[:left], 2 if one.role == "user" else 1))
        left = max(0, left - len(one.content))
    return terms_of(texts)


def structured_terms(title: str, messages: Sequence[Said], sections: Sections) -> dict[str, int]:
    """Its own items count most: they are what it is about."""
    found = [(title, 2), (sections.summary, 2), *((line, 2) for line in _lines(sections))]
    mine = terms_of(found)
    for term, count in stored_terms(title, messages).items():
        mine[term] = mine.get(term, 0) + count
    return terms_of(mine.items())


def _lines(sections: Sections) -> list[str]:
    return [item.text for name in NAMES for item in sections.of(name)]
