"""Splitting a long conversation so that each part fits one call: on message borders where possible. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from master.council.budget import Measure, estimate_tokens
from master.knowledge.messages import Said

MESSAGE_MARK = 24  # tokens of the mark before a message
LEAST_ROOM = 64
_WORTH_FILLING = 0.25  # of a chunk: less is left empty
_MOST_CHARS = 8  # of one token: no measure of ours counts less
# Where a text that must be cut is cut best: between paragraphs, lines, sentences, words.
_BORDERS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"[.!?…]\s+|[。！？]"),  # noqa: RUF001  # the full stops of Chinese and Japanese
    re.compile(r"\s+"),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters `start` to `end` of message number `message` (from 0)."""

    message: int
    start: int
    end: int


Chunk = tuple[Piece, ...]


def split(messages: Sequence[Said], room: int, measure: Measure = estimate_tokens) -> list[Chunk]:
    """Chunks of at most `room` tokens each that together are the whole conversation, in order.

    Equal beginnings give equal chunks, but for the last one: a conversation that has grown is read again from
    its last chunk on. A room below `LEAST_ROOM` counts as that.
    """
    room = max(room, LEAST_ROOM)
    worth_filling = max(room * _WORTH_FILLING, 2 * MESSAGE_MARK)
    chunks: list[Chunk] = []
    filling: list[Piece] = []
    left = room
    for number, message in enumerate(messages):
        size = _size(message.content, 0, room, measure)
        # A message that must be cut anyway may as well fill what is left of a chunk.
        if filling and size > left and (size <= room or left < worth_filling):
            chunks.append(tuple(filling))
            filling, left = [], room
        start = 0
        while size > left:
            end = _cut(message.content, start, left - MESSAGE_MARK, measure)
            chunks.append((*filling, Piece(number, start, end)))
            filling, left = [], room
            start, size = end, _size(message.content, end, room, measure)
        filling.append(Piece(number, start, len(message.content)))
        left -= size
    if filling:
        chunks.append(tuple(filling))
    return chunks


def halve(messages: Sequence[Said], chunk: Chunk) -> list[Chunk]:
    """The chunk as two of about the same length; one that cannot be divided comes back alone."""
    total = sum(piece.end - piece.start for piece in chunk)
    first: list[Piece] = []
    seen = 0
    for index, piece in enumerate(chunk):
        length = piece.end - piece.start
        if seen + length <= total // 2:
            first.append(piece)
            seen += length
            continue
        rest = list(chunk[index:])
        if not first:
            middle = _border(messages[piece.message].content, piece.start, piece.start + total // 2)
            if not piece.start < middle < piece.end:
                return [chunk]
            first = [Piece(piece.message, piece.start, middle)]
            rest[0] = Piece(piece.message, middle, piece.end)
        return [tuple(first), tuple(rest)]
    return [chunk]


def write_plan(chunks: Sequence[Chunk], answer_tokens: int) -> dict[str, Any]:
    """The chunks as they are stored with the archive: they stay the same whenever its job runs."""
    listed = [[[piece.message, piece.start, piece.end] for piece in chunk] for chunk in chunks]
    return {"chunks": listed, "answer_tokens": answer_tokens}


def read_plan(plan: Mapping[str, Any]) -> list[Chunk]:
    """What `write_plan` wrote."""
    return [tuple(Piece(*piece) for piece in chunk) for chunk in plan["chunks"]]


def texts(messages: Sequence[Said], chunk: Chunk) -> list[str]:
    """What stands in each piece of a chunk."""
    return [messages[piece.message].content[piece.start : piece.end] for piece in chunk]


def _size(text: str, start: int, room: int, measure: Measure) -> int:
    """Tokens of a message from `start` on; of one that is far too long, more than the room."""
    if len(text) - start > _MOST_CHARS * room:
        return room + 1
    return MESSAGE_MARK + measure(text[start:])


def _cut(text: str, start: int, room: int, measure: Measure) -> int:
    """Where to end the part that begins at `start`: at least one character on."""
    low, high = start + 1, min(len(text), start + max(1, _MOST_CHARS * room))
    while low < high:
        middle = (low + high + 1) // 2
        if measure(text[start:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return _border(text, start, low)


def _border(text: str, start: int, end: int) -> int:
    """The last good border before `end`, in the second half of the part; else `end` itself."""
    earliest = start + (end - start) // 2
    for border in _BORDERS:
        found = [match.end() for match in border.finditer(text, earliest, end)]
        if found:
            return found[-1]
    return end
