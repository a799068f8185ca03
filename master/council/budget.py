"""How much of a prompt fits a slot's context, and what is left out where it does not.

Token counts are estimates on the safe side, by script, for no tokenizer is at hand: they are sums over
characters, so a part never costs more inside a prompt than alone. What is cut is marked in the text and told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.protocol import Message
from common.usage import StageName

Measure = Callable[[str], int]

# Hundredths of a token per character, told from the first byte of its UTF-8 form; the bytes that follow cost
# nothing. English runs at 4 characters a token and German or code at 2.5 to 3 on small vocabularies; digits,
# punctuation and rare letters may be tokens of their own, and rarer scripts are split into bytes.
_WEIGHTS = (
    (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ", 40),
    (bytes(range(0xC2, 0xE0)), 100),  # Latin with marks, Greek, Cyrillic, Hebrew, Arabic
    (bytes(range(0xE0, 0xE3)), 200),  # Indic scripts, Thai, Georgian; punctuation and symbols
    (bytes(range(0xE3, 0xF0)), 150),  # Chinese, Japanese, Korean
    (bytes(range(0xF0, 0xF8)), 400),  # emoji and historic scripts
)
_ASCII_OTHER = 100
_CLASSES = bytes(
    next(
        (number for number, (firsts, _) in enumerate(_WEIGHTS) if byte in firsts), 254 if byte < 128 else 255
    )
    for byte in range(256)
)

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
    classes = text.encode("utf-8", "replace").translate(_CLASSES)
    hundredths = classes.count(254) * _ASCII_OTHER
    for number, (_, weight) in enumerate(_WEIGHTS):
        hundredths += classes.count(number) * weight
    return -(-hundredths // 100)


def count_bytes(text: str) -> int:
    """The bound for a byte-level vocabulary that merges little, such as a practice model's."""
    return len(text.encode("utf-8", "replace"))


def estimate_messages(messages: Sequence[Message], measure: Measure = estimate_tokens) -> int:
    """Tokens of a whole prompt, with what the chat template adds."""
    return PROMPT_OVERHEAD + sum(MESSAGE_OVERHEAD + measure(message.content) for message in messages)


def marker(characters: int) -> str:
    return f"[… {characters:,} characters left out …]"


def cut_middle(text: str, limit: int, measure: Measure = estimate_tokens) -> tuple[str, int]:
    """(text of at most `limit` tokens, characters left out): beginning and end stay, a marker between.

    Where not even the marker fits, the marker alone is returned: a text never vanishes in silence.
    """
    size = measure(text)
    if size <= limit:
        return text, 0
    room = limit - measure(marker(len(text)))
    low, high = 0, len(text)  # characters that fit, characters that do not
    probe = len(text) * max(0, room) // size
    while high - low > max(1, len(text) >> 8):
        head, tail = _ends(text, probe)
        if measure(head) + measure(tail) <= room:
            low = probe
        else:
            high = probe
        probe = (low + high) // 2
    head, tail = _ends(text, low)
    return f"{head}{marker(len(text) - low)}{tail}", len(text) - low


def _ends(text: str, characters: int) -> tuple[str, str]:
    head = round(characters * _HEAD_SHARE)
    return text[:head], text[len(text) - (characters - head) :]


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
