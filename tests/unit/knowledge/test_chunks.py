"""A long conversation is cut without losing a character, and so that each part fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from master.council.budget import estimate_tokens
from master.knowledge.chunks import (
    LEAST_ROOM,
    MESSAGE_MARK,
    Chunk,
    halve,
    read_plan,
    split,
    texts,
    write_plan,
)
from master.knowledge.messages import Said

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=400) | st.sampled_from(
    ["word " * 300, "行" * 400, "Ein Satz. " * 80, "x" * 900, "a\n\nb\n\n" * 90]
)
CONVERSATIONS = st.lists(TEXT.map(lambda text: Said("user", text)), min_size=1, max_size=8)
ROOMS = st.integers(1, 400)


def size(messages: list[Said], chunk: Chunk) -> int:
    return sum(MESSAGE_MARK + estimate_tokens(text) for text in texts(messages, chunk))


@given(CONVERSATIONS, ROOMS)
def test_the_chunks_together_are_the_whole_conversation_in_order(messages: list[Said], room: int) -> None:
    found = [""] * len(messages)
    last = (0, 0)
    for chunk in split(messages, room):
        for piece, text in zip(chunk, texts(messages, chunk), strict=True):
            assert (piece.message, piece.start) >= last
            last = (piece.message, piece.end)
            found[piece.message] += text
    assert found == [one.content for one in messages]


@given(CONVERSATIONS, ROOMS)
def test_every_chunk_fits_its_room(messages: list[Said], room: int) -> None:
    assert all(size(messages, chunk) <= max(room, LEAST_ROOM) for chunk in split(messages, room))


@given(CONVERSATIONS, CONVERSATIONS, ROOMS)
def test_a_conversation_that_grows_keeps_its_first_chunks(
    messages: list[Said], more: list[Said], room: int
) -> None:
    before, after = split(messages, room), split([*messages, *more], room)
    assert after[: len(before) - 1] == before[:-1]


@given(CONVERSATIONS)
def test_halves_are_the_chunk_and_both_are_smaller(messages: list[Said]) -> None:
    (chunk,) = split(messages, 10**6)
    halves = halve(messages, chunk)
    assert "".join("".join(texts(messages, half)) for half in halves) == "".join(texts(messages, chunk))
    if len(halves) == 2:
        assert all("".join(texts(messages, half)) for half in halves)
    else:
        assert sum(len(one.content) for one in messages) < 4


@given(CONVERSATIONS, ROOMS)
def test_a_stored_plan_is_read_as_it_was(messages: list[Said], room: int) -> None:
    chunks = split(messages, room)
    assert read_plan(write_plan(chunks, 100)) == chunks


def test_messages_stay_whole_and_long_ones_are_cut_between_sentences() -> None:
    messages = [Said("user", "Hello there."), Said("assistant", "One sentence here. " * 40)]
    chunks = split(messages, 150)
    assert chunks[0][0].end == len("Hello there.")
    assert all(text.endswith(". ") for chunk in chunks[1:] for text in texts(messages, chunk))


def test_long_messages_fill_their_chunks() -> None:
    messages = [Said("user", "word " * 320)] * 3  # 640 tokens each
    assert len(split(messages, 520)) == 4
    assert len(split([Said("user", "word " * 200)] * 3, 520)) == 3
