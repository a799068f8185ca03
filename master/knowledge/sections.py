"""The five sections of a structured archive: their schema, and reading them without believing them. Pure.

A model's words are taken for what they are: an item counts only where the text that it was drawn from
supports it. That takes out restated instructions, echoed schemas, invented people and figures from nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from master.knowledge.words import fold, share_found, stem, stems, telling, words

SCHEMA_VERSION = 1
NAMES = ("key_facts", "decisions", "people", "dates", "open_questions")
TITLES = {
    "key_facts": "Key facts",
    "decisions": "Decisions",
    "people": "People",
    "dates": "Dates",
    "open_questions": "Open questions",
}
MAX_ITEMS = 6  # of one section of one chunk
MAX_ITEM = 160  # characters that the grammar allows; longer ones of the fall-back are cut
MAX_SUMMARY = 400
LEAST_SUPPORT = 0.5  # share of an item's telling words that must stand in its text
LEAST_SUMMARY_SUPPORT = 0.4
_LEAST_ITEM = 4  # characters
_PLACEHOLDERS = frozenset(
    (
        "none|n/a|na|null|nothing|unknown|string|item|items|empty|not mentioned|none mentioned|not specified|"
        "no decisions|no dates|no people|no open questions|no key facts|"
        "keine|aucun|ninguno|nessuno|нет|无|なし"
    ).split("|")
)
_BEHIND_A_NAME = re.compile("[:,;(\u2013\u2014\uff1a\uff0c\uff1b\uff08\u3001]| - ")  # ours, and Chinese ones
_ROLE_WORDS = frozenset("user users assistant system tool speaker human ai bot model person people".split())
_ALIASES = {
    "facts": "key_facts",
    "keyfacts": "key_facts",
    "decision": "decisions",
    "persons": "people",
    "person": "people",
    "date": "dates",
    "openquestions": "open_questions",
    "questions": "open_questions",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a section, with the sentence of the conversation that supports it best.

    `message` counts from 1.
    """

    text: str
    message: int
    quote: str


@dataclass(frozen=True, slots=True)
class Sections:
    summary: str = ""
    items: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[Item, ...]:
        return self.items.get(name, ())

    @property
    def count(self) -> int:
        return sum(len(found) for found in self.items.values())

    def to_json(self) -> dict[str, Any]:
        listed = {
            name: [{"text": one.text, "message": one.message, "quote": one.quote} for one in self.of(name)]
            for name in NAMES
        }
        return {"summary": self.summary, **listed}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Sections:
        items = {
            name: tuple(Item(one["text"], one["message"], one["quote"]) for one in stored.get(name, ()))
            for name in NAMES
        }
        return cls(stored.get("summary", ""), items)


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a model's answer is worth. `dropped` counts the items that the text does not support."""

    sections: Sections
    dropped: int


@dataclass(frozen=True, slots=True)
class NotReadable:
    """Why an answer has none of the sections."""

    detail: str


def schema(max_items: int = MAX_ITEMS) -> dict[str, Any]:
    """A JSON schema in which everything is bounded: without bounds a grammar need not end in valid JSON."""
    line = {"type": "string", "maxLength": MAX_ITEM}
    listed = {"type": "array", "items": line, "maxItems": max_items}
    return {
        "type": "object",
        "properties": {
            "summary": {"type": "string", "maxLength": MAX_SUMMARY},
            **dict.fromkeys(NAMES, listed),
        },
        "required": ["summary", *NAMES],
        "additionalProperties": False,
    }


# -- reading an answer ------------------------------------------------------------------------------------


def from_json_answer(text: str) -> dict[str, list[str]] | NotReadable:
    """The lines of each section from an answer that should be our JSON; `summary` is a section of one line.

    A fence around it, other spellings of the names, and objects in place of lines are forgiven.
    """
    found = _first_object(text)
    if found is None:
        return NotReadable("the answer holds no complete JSON object")
    if "properties" in found or "$schema" in found:
        return NotReadable("the answer repeats the schema instead of filling it")
    lines: dict[str, list[str]] = {}
    for key, value in found.items():
        name = _name_of(str(key))
        if name is not None:
            lines.setdefault(name, []).extend(_lines_of(value))
    return lines or NotReadable("the answer has none of the sections")


def from_marked_answer(text: str) -> dict[str, list[str]] | NotReadable:
    """The lines of each section from plain text under headings such as `KEY FACTS:`."""
    lines: dict[str, list[str]] = {}
    current: str | None = None
    for line in text.splitlines():
        heading, rest = _heading(line)
        if heading is not None:
            current = heading
            line = rest
            lines.setdefault(heading, [])
        if current is not None and line.strip():
            lines[current].append(line)
    if "summary" in lines:
        lines["summary"] = [" ".join(lines["summary"])]
    return lines or NotReadable("the answer has none of the headings")


def _heading(line: str) -> tuple[str | None, str]:
    match = re.match(r"^[\s#*_>]*([A-Za-z][A-Za-z _]{2,20}?)[\s*_]*:[\s*_]*(.*)$", line) or re.match(
        r"^\s*(?:#+|\*\*)\s*([A-Za-z][A-Za-z _]{2,20}?)[\s*_]*()$", line
    )
    name = _name_of(match[1]) if match else None
    return (name, match[2]) if match and name else (None, line)


def _name_of(key: str) -> str | None:
    plain = re.sub(r"[^a-z]", "", key.lower())
    if plain == "summary":
        return "summary"
    for name in NAMES:
        if plain == name.replace("_", ""):
            return name
    return _ALIASES.get(plain)


def _first_object(text: str) -> dict[str, Any] | None:
    decoder = json.JSONDecoder()
    start = text.find("{")
    for _ in range(8):
        if start < 0:
            return None
        try:
            found, _end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        if isinstance(found, dict):
            return found
    return None


def _lines_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, dict):
        parts = [str(part) for part in value.values() if isinstance(part, str | int | float)]
        if parts:
            yield ": ".join(parts)
    elif isinstance(value, list):
        for one in value:
            if not isinstance(one, list):
                yield from _lines_of(one)


# -- believing it or not ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a chunk, prepared: stems of the whole, and its sentences with their message (from 1)."""

    known: frozenset[str]
    exact: frozenset[str]
    sentences: tuple[tuple[int, str, frozenset[str]], ...]

    @classmethod
    def of(cls, numbered: Sequence[tuple[int, str]]) -> Source:
        sentences = [
            (number, sentence, stems(sentence)) for number, text in numbered for sentence in _sentences(text)
        ]
        exact = frozenset(word for _, text in numbered for word in words(text))
        known = frozenset(stem(word) for word in exact)
        return cls(known, exact, tuple(sentences))

    def best(self, text: str) -> tuple[int, str]:
        """Message and sentence that share most words with `text`."""
        wanted = stems(text)
        if not self.sentences:
            return 1, ""
        number, sentence, _ = max(
            self.sentences, key=lambda one: len(wanted & one[2]) / (1 + 0.02 * len(one[2]))
        )
        return number, sentence if len(sentence) <= 300 else sentence[:299] + "…"


def believe(lines: Mapping[str, Sequence[str]], source: Source, instructions: str = "") -> Extracted:
    """Keep of an answer's lines what its text supports and `instructions` do not say word for word."""
    asked = f" {normal(instructions)} "
    kept: dict[str, tuple[Item, ...]] = {}
    dropped = 0
    for name in NAMES:
        found: dict[str, Item] = {}
        for line in list(lines.get(name, ()))[: 4 * MAX_ITEMS]:
            text = tidy(line)
            if is_placeholder(text):
                continue
            if name == "people" and not is_supported(name, text, source):
                text = called(text)  # a name that occurs, with a part that the model made up
            if f" {normal(text)} " in asked or not is_supported(name, text, source):
                dropped += 1
            elif (key := normal(text)) not in found and len(found) < MAX_ITEMS:
                found[key] = Item(text, *source.best(text))
        kept[name] = tuple(found.values())
    summary = tidy(" ".join(lines.get("summary", ())), MAX_SUMMARY)
    if summary and (is_placeholder(summary) or share_found(summary, source.known) < LEAST_SUMMARY_SUPPORT):
        dropped += 1
        summary = ""
    return Extracted(Sections(summary, kept), dropped)


def is_supported(name: str, text: str, source: Source) -> bool:
    """Whether the words of a line, and its figures, stand in the text."""
    found = words(text)
    numbers = [word for word in found if word.isdigit()]
    missing = sum(number not in source.exact for number in numbers)
    # A date may be spelt another way (2024-03-05 for 5 March 2024); any other figure must stand there.
    if missing > (len(numbers) // 2 if name == "dates" else 0):
        return False
    if name == "people":
        own = telling(words(called(text)))
        if not own or set(own) <= _ROLE_WORDS:
            return False
        if sum(word in source.exact for word in own) * 2 < len(own) or own[0] not in source.exact:
            return False
    return share_found(text, source.known) >= LEAST_SUPPORT


def called(person: str) -> str:
    """The name at the beginning of a line about a person."""
    return _BEHIND_A_NAME.split(person, maxsplit=1)[0].strip()


def tidy(line: str, most: int = MAX_ITEM) -> str:
    """A line without bullets, quotes and control characters, at most so long."""
    text = " ".join("".join(char if char.isprintable() else " " for char in line).split())
    text = re.sub(r"^(?:[-*•\u2013\u2014>]+|\(?\d{1,2}[.)])\s+", "", text)
    text = text.strip().strip('"“”*`').strip()  # typographic quotes
    if len(text) <= most:
        return text
    cut = text[: most - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[most // 2 :] else cut) + "…"


def is_placeholder(text: str) -> bool:
    """Whether a line says nothing: `none`, a section's own name, a piece of JSON."""
    plain = fold(text).strip(" .:-_[](){}\"'")
    if len(plain) < _LEAST_ITEM and not any(ord(char) > 0x2FF for char in plain) and not plain.isdigit():
        return True
    if plain in _PLACEHOLDERS or _name_of(plain) is not None:
        return True
    return text.startswith(("{", "[")) or '":' in text


def normal(text: str) -> str:
    """Equal for lines that differ in case and punctuation only."""
    return " ".join(words(text)) or fold(text)


def _sentences(text: str) -> Iterable[str]:
    for part in re.split(r"(?<=[.!?…])\s+|(?<=[。！？])|\n+", text):  # noqa: RUF001  # full stops of Chinese
        if part and part.strip():
            yield " ".join(part.split())


def with_summary(sections: Sections, summary: str) -> Sections:
    return replace(sections, summary=summary)
