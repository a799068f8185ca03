"""A byte-level BPE tokenizer, trained on a few hundred words, for the practice models.

Byte-level: every question can be read, in every script, as in the worst case each byte is one token. The
vocabulary also holds the whole phrases that a model says; reading text never produces those, as merges
stop at word borders.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

# How GPT-2 cuts text before merging, near enough for training; llama.cpp applies the exact rule when reading.
_WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")

# What prompts are made of: makes questions and reviews of ordinary English about half as long.
ENGLISH = """
the of and to a in is that it for was on are as with be at by this have from or one had not but what all
were when we there can an your which their said if do will each about how up out them then she many some so
these would other into has more her two like him see time could no make than first been its who now people
my made over did down only way find use may water long little very after words called just where most know
get through back much go good new write our me man too any day same right look think also around another
came come work three word must because does part even place well such here take why help put different away
again off went old number great tell men say small every found still between name should home big give air
line set own under read last never us left end along while might next sound below saw something thought both
few those always show large often together asked house don't world going want school important until form
food keep children feet land side without boy once animal life enough took four head above kind began almost
live page got earth need far hand high year mother light country father let night picture being study second
answer answers question council review reviewer score reasoning label careful honest reply user system
assistant explain compare model language short only JSON rank agent response write language same best
"""


def _byte_characters() -> list[str]:
    """GPT-2's reversible table: the printable character that stands for each byte in vocabulary files."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + index) for index, byte in enumerate(unprintable)})
    return [table[byte] for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()


def spelled(text: str) -> str:
    """`text` as vocabulary files spell it: one character for each byte of its UTF-8."""
    return "".join(BYTE_CHARACTERS[byte] for byte in text.encode())


def train_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The `count` most useful merges of byte-pair encoding, best first; ties go to the later spelling."""
    counted = Counter(spelled(word) for text in texts for word in _WORD.findall(text))
    words = [(list(word), times) for word, times in sorted(counted.items())]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, times in words:
            for pair in pairwise(parts):
                pairs[pair] += times
        if not pairs:
            break
        best = max(pairs.items(), key=lambda item: (item[1], item[0]))[0]
        merges.append(best)
        for parts, _ in words:
            _merge(parts, best)
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> None:
    """Join every occurrence of `pair` in place, left to right."""
    index = 0
    while index < len(parts) - 1:
        if parts[index] == pair[0] and parts[index + 1] == pair[1]:
            parts[index : index + 2] = [pair[0] + pair[1]]
        index += 1


def vocabulary(merges: Sequence[tuple[str, str]], phrases: Iterable[str]) -> list[str]:
    """All tokens as spelled in the file: bytes, merges, then the phrases that are not among them."""
    tokens = dict.fromkeys([*BYTE_CHARACTERS, *(left + right for left, right in merges)])
    tokens.update(dict.fromkeys(spelled(phrase) for phrase in phrases))
    return list(tokens)
