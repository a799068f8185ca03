"""Exports of other programs are read record by record; what is broken costs itself alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.knowledge.importing.formats import UnreadableRecordError, read
from master.knowledge.importing.records import Record, RecordSplitter

VALUES: list[Any] = [
    {"a": 'x"]}[{\\"', "b": [1, {"c": "ü\n"}]},
    {},
    {"e": "\\", "f": {"g": []}},
    {"ж": "日本" * 50},
]


def cut(data: bytes, size: int, most: int = 10**6) -> list[Record]:
    splitter = RecordSplitter(most)
    found = [one for start in range(0, len(data), size) for one in splitter.feed(data[start : start + size])]
    return [*found, *splitter.close()]


FILES = {
    "array": json.dumps(VALUES).encode(),
    "pretty array": json.dumps(VALUES, indent=2, ensure_ascii=False).encode(),
    "lines": b"\n".join(json.dumps(one).encode() for one in VALUES),
    "lines with blanks": b"\n\r\n" + b"\r\n\r\n".join(json.dumps(one).encode() for one in VALUES) + b"\n",
    "pretty, one after another": "\n".join(json.dumps(one, indent=1) for one in VALUES).encode(),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(VALUES).encode(),
}


@pytest.mark.parametrize("name", FILES)
@given(size=st.integers(1, 300))
def test_records_are_cut_wherever_the_blocks_end(name: str, size: int) -> None:
    found = cut(FILES[name], size)
    assert [one.value for one in found] == VALUES
    assert [one.number for one in found] == [1, 2, 3, 4]


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.lists(st.text()))), st.integers(1, 64), st.booleans()
)
def test_any_records_survive_the_cutting(values: list[Any], size: int, ascii_only: bool) -> None:
    data = json.dumps(values, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if b"\xed" not in data:
        assert [one.value for one in cut(data, size)] == values


@given(st.binary(max_size=200), st.integers(1, 50))
def test_no_bytes_break_the_cutting(data: bytes, size: int) -> None:
    cut(data, size)
    cut(b"[" + data, size)


def test_a_broken_line_is_told_with_its_number_and_costs_itself_alone() -> None:
    found = cut(b'{"a": 1\n{"a": \n\n[1]\nnonsense\n{"a": "\xff"}\n{"a": 2}\n', 7)
    assert [(one.line, one.problem is None) for one in found] == [
        (1, False),
        (2, False),
        (4, True),
        (5, False),
        (6, False),
        (7, True),
    ]


def test_a_broken_record_of_an_array_costs_itself_alone() -> None:
    found = cut(b'[\n{"a": 1},\n{"a": nope},\n{"a": 3}\n]', 5)
    assert [(one.line, one.problem is None) for one in found] == [(2, True), (3, False), (4, True)]


@pytest.mark.parametrize("data", [b'[{"a": 1}, {"a": "cut', b'[{"a": 1}', b'[{"a": 1},'])
def test_a_file_that_ends_too_early_keeps_what_was_whole_and_says_so(data: bytes) -> None:
    whole, last = cut(data, 4)
    assert whole.value == {"a": 1}
    assert last.problem == "the file ends in the middle of it"


def test_a_record_beyond_the_limit_ends_the_reading() -> None:
    found = cut(b'[{"a": 1}, {"a": "' + b"x" * 5000 + b'"}, {"a": 3}]', 100, most=1000)
    assert [one.problem is None for one in found] == [True, False]


# -- formats ----------------------------------------------------------------------------------------------


def node(key: str, parent: str | None, role: str | None, text: str = "", **message: Any) -> dict[str, Any]:
    said = {
        "author": {"role": role},
        "content": {"content_type": "text", "parts": [text]},
        "create_time": float(len(key)),
        **message,
    }
    return {"id": key, "parent": parent, "children": [], "message": said if role else None}


def chatgpt(**changes: Any) -> dict[str, Any]:
    nodes = [
        node("root", None, None),
        node("sys", "root", "system", "You are helpful."),
        node("q1", "sys", "user", "First try"),
        node("a1", "q1", "assistant", "Abandoned answer"),
        node("q2", "sys", "user", "Second try"),
        node("th", "q2", "assistant", content={"content_type": "thoughts", "thoughts": []}),
        node("call", "th", "assistant", "search()", recipient="browser"),
        node("tool", "call", "tool", "results"),
        node("hid", "tool", "user", "profile", metadata={"is_visually_hidden_from_conversation": True}),
        node(
            "a2",
            "hid",
            "assistant",
            content={
                "content_type": "multimodal_text",
                "parts": ["The answer.", {"content_type": "image_asset_pointer"}, {"text": "Heard."}],
            },
        ),
    ]
    return {
        "title": "A talk",
        "create_time": 1_700_000_000.5,
        "conversation_id": "c-1",
        "current_node": "a2",
        "mapping": {one["id"]: one for one in nodes},
        **changes,
    }


def test_of_chatgpt_the_branch_that_was_shown_last_is_read() -> None:
    found = read(chatgpt())
    assert [(one.role, one.content) for one in found.messages] == [
        ("user", "Second try"),
        ("assistant", "The answer.\nHeard."),
    ]
    assert (found.title, found.source, found.reference, found.occurred_at) == (
        "A talk",
        "chatgpt",
        "c-1",
        1_700_000_000.5,
    )


@pytest.mark.parametrize("current", [None, "gone"])
def test_without_a_current_node_the_newest_message_ends_the_branch(current: str | None) -> None:
    talk = chatgpt(current_node=current)
    talk["mapping"]["a1"]["message"]["create_time"] = 99.0
    assert [one.content for one in read(talk).messages] == ["First try", "Abandoned answer"]


def test_a_branch_that_runs_in_a_circle_ends() -> None:
    talk = chatgpt()
    talk["mapping"]["sys"]["parent"] = "a2"
    assert len(read(talk).messages) == 2


def open_webui(**chat: Any) -> dict[str, Any]:
    said = {
        "1": {"id": "1", "parentId": None, "childrenIds": ["2", "3"], "role": "user", "content": "Hello"},
        "2": {"id": "2", "parentId": "1", "role": "assistant", "content": "Not this one"},
        "3": {
            "id": "3",
            "parentId": "1",
            "role": "assistant",
            "content": '<details type="reasoning" done="true">\n<summary>Thought</summary>\nhm\n'
            "</details>\nHi there",
        },
    }
    body = {"title": "Greeting", "models": ["m"], "history": {"messages": said, "currentId": "3"}, **chat}
    return {"id": "w-1", "user_id": "u", "title": "Greeting", "chat": body, "created_at": 1_700_000_000}


def test_of_open_webui_the_chosen_answer_is_read_without_its_reasoning() -> None:
    for record in (open_webui(), {**open_webui()["chat"], "timestamp": 1_700_000_000_000}):
        found = read(record)
        assert [one.content for one in found.messages] == ["Hello", "Hi there"]
        assert (found.title, found.source, found.occurred_at) == ("Greeting", "open_webui", 1_700_000_000.0)


def test_an_old_export_of_open_webui_has_a_plain_list() -> None:
    listed = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert len(read(open_webui(history={}, messages=listed)).messages) == 2


def test_our_own_form_is_read_with_its_title_and_time() -> None:
    record = {
        "title": "Tea",
        "created_at": "2026-03-01T10:00:00+00:00",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Tea?"}]},
            {"role": "tool", "content": " "},
        ],
    }
    found = read(record)
    assert [one.content for one in found.messages] == ["Tea?"]
    assert (found.title, found.occurred_at) == ("Tea", 1_772_359_200.0)


@pytest.mark.parametrize(
    "record",
    [
        1,
        [],
        {},
        {"messages": []},
        {"messages": ["x"]},
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"role": "user", "content": "x"},
        {"mapping": {}},
        {"chat": {"history": None}},
        {"mapping": {"a": 1}, "current_node": "a"},
    ],
    ids=repr,
)
def test_what_is_no_conversation_says_why(record: object) -> None:
    with pytest.raises(UnreadableRecordError, match=r".{10}"):
        read(record)


LOOSE = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                (
                    "mapping current_node message parent content parts author role a chat history messages "
                    "currentId parentId text title create_time"
                ).split()
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(LOOSE)
def test_no_record_breaks_the_readers(record: object) -> None:
    try:
        assert read(record).messages
    except UnreadableRecordError:
        pass
