"""Bytes become lines however the network cuts them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.protocol import LineSplitter
from worker_node.engines.sse import EventReader

LINES = st.lists(st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"]), min_size=1))


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(one % (len(data) + 1) for one in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(lines=LINES, cuts=st.lists(st.integers(0, 10_000)))
def test_lines_come_out_whole_whatever_the_reads_are(lines: list[str], cuts: list[int]) -> None:
    expected = [encoded for line in lines if (encoded := line.encode()).strip()]
    splitter = LineSplitter()
    found: list[bytes] = []
    for read in cut("".join(f"{line}\n" for line in lines).encode(), cuts):
        found += splitter.feed(read)
    assert found == expected
    assert splitter.rest == b""


def test_separators_of_unicode_do_not_end_a_line() -> None:
    text = "a\u0085b\u2028c\u2029d\x0ce".encode()
    assert LineSplitter().feed(text + b"\n") == [text]


def test_a_last_line_without_its_end_is_the_rest() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.feed(b"o") == []
    assert splitter.rest == b"two"


def test_an_endless_line_is_an_error_and_not_a_full_memory() -> None:
    splitter = LineSplitter(max_line_bytes=10)
    splitter.feed(b"x" * 10)
    with pytest.raises(ValueError, match="longer than 10"):
        splitter.feed(b"x")


@given(payloads=st.lists(st.integers(), max_size=20), cuts=st.lists(st.integers(0, 10_000)))
def test_events_come_out_whole_between_comments(payloads: list[int], cuts: list[int]) -> None:
    body = b"".join(b": ping\r\ndata: {%d}\r\n\r\nevent: x\n" % one for one in payloads) + b"data: [DONE]\n\n"
    reader = EventReader()
    found: list[bytes] = []
    for read in cut(body, cuts):
        found += reader.feed(read)
    assert found == [b"{%d}" % one for one in payloads]
    assert reader.ended


def test_a_stream_without_done_has_not_ended() -> None:
    reader = EventReader()
    assert reader.feed(b'data: {"a":1}\n\ndata: [DO') == [b'{"a":1}']
    assert not reader.ended
