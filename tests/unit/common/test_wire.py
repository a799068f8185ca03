"""The node's wire: pinned samples, and lines cut where they end and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import errors
from common.protocol import (
    Delta,
    Done,
    Failed,
    GenerateRequest,
    LineSplitter,
    Message,
    Queued,
    Started,
    StreamMessage,
    Waiting,
    encode_line,
    encoder,
    stream_decoder,
)
from common.usage import CallLatency, TokenUsage

SAMPLES: list[tuple[StreamMessage, bytes]] = [
    (Queued(2), b'{"type":"queued","position":2}\n'),
    (Waiting("load"), b'{"type":"waiting","phase":"load"}\n'),
    (Started(), b'{"type":"started"}\n'),
    (Delta("answer", "h\u00e9"), '{"type":"delta","channel":"answer","text":"h\u00e9"}\n'.encode()),
    (
        Done("stop", TokenUsage.of(3, 2), CallLatency(queue_ms=1.5)),
        b'{"type":"done","done_reason":"stop","token_usage":{"prompt_tokens":3,"completion_tokens":2,'
        b'"total_tokens":5},"latency":{"queue_ms":1.5,"load_ms":0.0,"prompt_ms":0.0,"generate_ms":0.0,'
        b'"network_ms":0.0,"first_token_ms":0.0,"total_ms":0.0,"tokens_per_second":0.0}}\n',
    ),
    (Failed({"code": "stream_cut"}), b'{"type":"error","error":{"code":"stream_cut"}}\n'),
]


@pytest.mark.parametrize(("message", "line"), SAMPLES)
def test_a_message_is_written_and_read_as_pinned(message: StreamMessage, line: bytes) -> None:
    assert encode_line(message) == line
    assert stream_decoder.decode(line) == message


def test_a_request_is_written_as_pinned_and_unknown_fields_are_ignored() -> None:
    request = GenerateRequest(model="m", messages=[Message("user", "hi")], call_class="background")
    written = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"class":"background"}'
    assert encoder.encode(request) == written
    assert stream_decoder.decode(b'{"type":"started","new_in_version_2":1}') == Started()


@given(
    st.lists(st.text(alphabet=st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.data()
)
def test_lines_are_the_same_however_the_bytes_are_cut(lines: list[str], data: st.DataObject) -> None:
    lines = [line for line in lines if line.strip() and line.encode().strip()]
    whole = "".join(f"{line}\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    splitter = LineSplitter()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += splitter.feed(whole[start:end])
    assert [line.decode() for line in found] == lines
    assert splitter.rest == b""


def test_a_line_that_outgrows_the_limit_is_an_error() -> None:
    splitter = LineSplitter(max_line_bytes=10)
    with pytest.raises(ValueError, match="longer than 10"):
        splitter.feed(b"x" * 11)


def test_every_error_survives_the_wire_with_its_code() -> None:
    assert len(errors.BY_CODE) >= 30
    for code, kind in errors.BY_CODE.items():
        sent = kind("what happened", model="m", retry_after_s=2.0)
        back = errors.from_problem(sent.to_problem(), node="pc2")
        assert (type(back), back.code, back.detail, back.node) == (kind, code, "what happened", "pc2")
        assert back.headers == {"Retry-After": "2"}


def test_every_code_stands_in_the_tree_at_the_top_of_its_module() -> None:
    drawn = errors.__doc__ or ""
    branches = {"retry", "request"}
    missing = [
        code for code, kind in errors.BY_CODE.items() if code not in branches and f" {code} " not in drawn
    ]
    assert missing == []
    wrong = [
        code
        for code, kind in errors.BY_CODE.items()
        if code not in branches
        and not any(code in line and str(kind.status) in line for line in drawn.splitlines())
    ]
    assert wrong == []


def test_an_unknown_problem_is_an_engine_failure_and_never_a_crash() -> None:
    assert isinstance(errors.from_problem({"code": "from_the_future"}), errors.EngineFailedError)
    assert isinstance(errors.from_problem("nonsense"), errors.EngineFailedError)
