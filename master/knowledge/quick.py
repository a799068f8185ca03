"""The first sentences of a conversation, for when no model can be asked. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from master.knowledge.messages import Said
from master.knowledge.prompts import QUICK_SUMMARY_CHARS
from master.knowledge.sections import is_placeholder, tidy
from master.knowledge.words import share_found, stem, words

_LEAST_SUPPORT = 0.3


def extract(messages: Sequence[Said]) -> str:
    """What was asked first, and how the last answer begins."""
    asked = next((one.content for one in messages if one.role == "user"), messages[0].content)
    answered = next((one.content for one in reversed(messages) if one.role == "assistant"), "")
    half = QUICK_SUMMARY_CHARS // 2
    parts = [tidy(_beginning(asked), half), tidy(_beginning(answered), half)]
    return " → ".join(part for part in parts if part)


def usable(text: str, messages: Sequence[Said]) -> str | None:
    """A model's summary as one line, or `None` where it says nothing that the conversation says."""
    line = tidy(text, QUICK_SUMMARY_CHARS)
    if is_placeholder(line):
        return None
    known = frozenset(stem(word) for one in messages for word in words(one.content[:20_000]))
    return line if share_found(line, known) >= _LEAST_SUPPORT else None


def _beginning(text: str) -> str:
    """The first sentence, else the first line."""
    line = next((one for one in text.splitlines() if one.strip()), "")
    match = re.match(r".{12,}?[.!?。！？](?=\s|$)", line)  # noqa: RUF001  # full stops of Chinese
    return match.group() if match else line
