"""A conversation as it is archived: who said what, in order. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ROLES = ("user", "assistant", "system", "tool")
TITLE_CHARS = 120


@dataclass(frozen=True, slots=True)
class Said:
    """One message. `role` is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages with what is known of them. `occurred_at` in Unix seconds; `reference` is its id elsewhere."""

    messages: tuple[Said, ...]
    title: str | None = None
    source: str = "messages"
    reference: str | None = None
    occurred_at: float | None = None


def clean(text: str) -> str:
    """The text without what no database keeps (NUL, half surrogates), with plain line ends."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\ufffd").replace("\r\n", "\n").replace("\r", "\n")


def said(pairs: Iterable[tuple[str, str]]) -> tuple[Said, ...]:
    """Messages from (role, text), cleaned; those without a word are left out."""
    found = (Said(role, clean(text)) for role, text in pairs)
    return tuple(one for one in found if one.content.strip())


def dump(messages: Sequence[Said]) -> str:
    """The one spelling of a conversation in which it is stored and hashed."""
    pairs = [[one.role, one.content] for one in messages]
    return json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))


def load(text: str) -> tuple[Said, ...]:
    """What `dump` wrote."""
    return tuple(Said(role, content) for role, content in json.loads(text))


def hash_of(text: str) -> str:
    """SHA-256 of a dumped conversation: the same words are the same archive."""
    return hashlib.sha256(text.encode()).hexdigest()


def title_of(conversation: Conversation) -> str:
    """Its own title, else the beginning of what the person said first."""
    first = next((one for one in conversation.messages if one.role == "user"), conversation.messages[0])
    words = " ".join(clean(conversation.title or "").split()) or " ".join(first.content.split())
    return words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1] + "…"
