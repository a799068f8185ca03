"""Words of any alphabet, for telling what a text speaks of and whether one text supports another. Pure."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_STEM = 5  # letters of a longer word that must agree: inflections differ behind them
# Few, on purpose: what is frequent in a collection weighs little by itself. These keep short texts honest.
_STOP_WORDS = """
    the and for are was were that this with you your not but have has had they them their its from what which
    who will would can could should there then than been also into about when how why our his her she him
    der die das und ist sind war nicht ein eine einen dem den des mit auf für von zu im ich sie wir es auch
    le la les et est une des du que qui dans pour pas sur avec ce il elle nous vous au aux
    el los las es un una por con para del se su al lo como más
    il lo gli è di che non per si della sono da no in it is to of or as at by be do if so an on he we me my
    и в не на что он она это как по но из за от так же для мы вы они был
"""
# Accents of Latin, Greek and Cyrillic letters. Those of other scripts change what a word is.
_ACCENTS = re.compile(r"[\u0300-\u036f]+")
_ASCII_WORD = re.compile(r"[a-z]+|\d+")
# Scripts written without spaces: their words are taken as pairs of neighbouring characters.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


def fold(text: str) -> str:
    """One spelling for search and comparison: compatible forms joined, case and accents taken away.

    Greek capitals are written without accents, and many people type none.
    """
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", apart))


STOP_WORDS = frozenset(fold(_STOP_WORDS).split())


@lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    # Vowel signs and accents belong to their word; `\\w` alone would cut Hindi words at each of them.
    marks = "".join(
        chr(point)
        for point in range(0x300, min(sys.maxunicode, 0xFFFF))
        if unicodedata.category(chr(point)) in ("Mn", "Mc")
    )
    inside = f"[^\\W\\d_]|[{re.escape(marks)}]"
    return re.compile(rf"\d+|(?:{inside})+")


@lru_cache(maxsize=1)
def _unspaced_first() -> re.Pattern[str]:
    return re.compile(f"[{_UNSPACED}]")


@lru_cache(maxsize=1)
def _unspaced() -> re.Pattern[str]:
    return re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words of a text in order, folded: letters with marks, runs of digits, pairs of Han signs."""
    folded = fold(text)
    if folded.isascii():
        return [_number(word) if word.isdigit() else word for word in _ASCII_WORD.findall(folded)]
    found: list[str] = []
    for word in _word().findall(folded):
        if word.isascii():
            found.append(_number(word) if word.isdigit() else word)
            continue
        for run in _unspaced().findall(word):
            if _unspaced_first().match(run):
                found += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
            else:
                found.append(_number(run) if run.isdigit() else run)
    return found


def _number(digits: str) -> str:
    """One spelling for 7 and 007."""
    return digits.lstrip("0") or "0"


def telling(found: Iterable[str]) -> list[str]:
    """Those that say something: no stop word, no single Latin letter."""
    return [
        word
        for word in found
        if word not in STOP_WORDS and (len(word) > 1 or word.isdigit() or ord(word[0]) > 0x2FF)
    ]


def stem(word: str) -> str:
    """The part of a word that its inflections share, roughly."""
    return word if word.isdigit() or len(word) <= _STEM else word[:_STEM]


def stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in telling(words(text)))


def share_found(text: str, known: frozenset[str]) -> float:
    """Which share of the telling words of `text` is among the stems `known`, 0 to 1; 0 where it has none."""
    wanted = {stem(word) for word in telling(words(text))}
    return len(wanted & known) / len(wanted) if wanted else 0.0


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard's index of two sets of words."""
    return len(one & other) / len(one | other) if one or other else 1.0
