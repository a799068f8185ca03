"""How much of a prompt fits a slot's context, and what is left out where it does not.

Token counts are estimates on the safe side, by script, for no tokenizer is at hand: they are sums over
characters, so a part never costs more inside a prompt than alone. What is cut is marked in the text and told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.protocol import Message
from common.usage import StageName

Measure = Callable[[str], int]

# Hundredths of a token per character. English runs at 4 characters a token and German or code at 2.5 to 3 on
# small vocabularies; digits, punctuation and rare letters may be tokens of their own.
_ASCII_WORD, _ASCII_OTHER = 40, 100
_SCRIPTS = (
    (0x0250, 100),  # Latin with marks
    (0x0700, 100),  # Greek, Cyrillic, Armenian, Hebrew, Arabic
    (0x1000, 200),  # Indic scripts, Thai, Tibetan: often split into bytes
    (0x2000, 150),
    (0x2E80, 200),  # punctuation and symbols
    (0xD7B0, 150),  # Chinese, Japanese, Korean
    (0x10000, 200),
)
_ASTRAL = 400  # emoji and historic scripts: up to four bytes
_WORDLIKE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
_ASCII_CLASSES = bytes(1 if chr(code) in _WORDLIKE else 2 for code in range(256))

MESSAGE_OVERHEAD = 8  # tokens of a chat template around one message
PROMPT_OVERHEAD = 16
_HEAD_SHARE = 0.6  # of what stays of a cut text; the rest is its end


@dataclass(frozen=True, slots=True)
class Trim:
    """One entry of `session.trimmed`: what the prompt of a call left out, in characters."""

    stage: StageName
    agent_id: str
    what: str
    characters: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate_tokens(text: str) -> int:
    """Tokens of a text, rather too many than too few for the usual vocabularies (32k and more)."""
    if text.isascii():
        words = text.encode("ascii").translate(_ASCII_CLASSES).count(1)
        return _ceil(words * _ASCII_WORD + (len(text) - words) * _ASCII_OTHER)
    return _ceil(sum(_weight(character) * count for character, count in Counter(text).items()))


def count_bytes(text: str) -> int:
    """The bound for a byte-level vocabulary that merges little, such as a practice model's."""
    return len(text.encode("utf-8", "replace"))


def _weight(character: str) -> int:
    code = ord(character)
    if code < 128:
        return _ASCII_WORD if character in _WORDLIKE else _ASCII_OTHER
    return next((weight for end, weight in _SCRIPTS if code < end), _ASTRAL)


def _ceil(hundredths: int) -> int:
    return -(-hundredths // 100)


def estimate_messages(messages: Sequence[Message], measure: Measure = estimate_tokens) -> int:
    """Tokens of a whole prompt, with what the chat template adds."""
    return PROMPT_OVERHEAD + sum(MESSAGE_OVERHEAD + measure(message.content) for message in messages)


def marker(characters: int) -> str:
    return f"[… {characters:,} characters left out …]"


def cut_middle(text: str, limit: int, measure: Measure = estimate_tokens) -> tuple[str, int]:
    """(text of at most `limit` tokens, characters left out): beginning and end stay, a marker between.

    Where not even the marker fits, the marker alone is returned: a text never vanishes in silence.
    """
    if measure(text) <= limit:
        return text, 0
    low, high = 0, max(0, len(text) - 1)
    while low < high:
        middle = (low + high + 1) // 2
        if measure(_keep(text, middle)) <= limit:
            low = middle
        else:
            high = middle - 1
    return _keep(text, low), len(text) - low


def _keep(text: str, characters: int) -> str:
    head = round(characters * _HEAD_SHARE)
    tail = characters - head
    left_out = marker(len(text) - characters)
    return f"{text[:head]}{left_out}{text[len(text) - tail :]}" if characters else left_out


def share(sizes: Sequence[int], room: int) -> list[int]:
    """Deal `room` out: what is small is whole, the largest are cut to one common size."""
    allowed = list(sizes)
    left = max(0, room)
    by_size = sorted(range(len(sizes)), key=sizes.__getitem__)
    for dealt, index in enumerate(by_size):
        allowed[index] = min(sizes[index], left // (len(sizes) - dealt))
        left -= allowed[index]
    return allowed


def cut_to_share(texts: Sequence[str], room: int, measure: Measure) -> list[tuple[str, int]]:
    """Cut the longest of several texts until together they take at most `room` tokens."""
    allowed = share([measure(text) for text in texts], room)
    return [cut_middle(text, limit, measure) for text, limit in zip(texts, allowed, strict=True)]
