"""What a model writes counts only where the conversation supports it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.knowledge import prompts
from master.knowledge.merging import merge
from master.knowledge.sections import (
    MAX_ITEM,
    MAX_ITEMS,
    NAMES,
    Item,
    NotReadable,
    Sections,
    Source,
    believe,
    from_json_answer,
    from_marked_answer,
    schema,
)

TALK = Source.of(
    [
        (1, "Anna Weber asked whether we move the database to PostgreSQL before 5 March 2025."),
        (2, "We decided to move on 3 March 2025. Who pays for the second server with 64 GB is still open."),
    ]
)
GOOD = {
    "summary": "Anna Weber and we plan the move of the database to PostgreSQL.",
    "key_facts": ["The second server has 64 GB"],
    "decisions": ["Move the database to PostgreSQL on 3 March 2025"],
    "people": ["Anna Weber: asked about the database"],
    "dates": ["2025-03-03: the move"],
    "open_questions": ["Who pays for the second server?"],
}


def read(answer: str) -> Sections:
    lines = from_json_answer(answer)
    assert not isinstance(lines, NotReadable)
    return believe(lines, TALK).sections


def test_a_good_answer_is_kept_whole_with_the_sentence_behind_each_item() -> None:
    found = read(json.dumps(GOOD))
    assert {name: [one.text for one in found.of(name)] for name in NAMES} == {
        name: GOOD[name] for name in NAMES
    }
    assert found.summary == GOOD["summary"]
    assert found.of("open_questions")[0].message == 2
    assert found.of("open_questions")[0].quote.startswith("Who pays for the second server")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("key_facts", "The server has 128 GB"),
        ("key_facts", "Berlin is the capital of Germany"),
        ("decisions", "what was decided or recommended"),
        ("people", "User: asked a question about the database"),
        ("people", "Robert Smith: pays for the second server"),
        ("dates", "17 August 1999: the move of the database"),
        ("key_facts", "You write down only what a conversation itself says"),
    ],
    ids=["figure", "outside", "instruction", "role", "invented person", "invented date", "system"],
)
def test_what_the_text_does_not_support_is_dropped_and_counted(name: str, line: str) -> None:
    found = believe({name: [line]}, TALK, prompts.instructions())
    assert found.sections.count == 0
    assert found.dropped == 1


@pytest.mark.parametrize(
    "line", ["None", "n/a", "- ", "string", "key_facts", '{"type": "string"}', "...", "", "Open questions:"]
)
def test_what_says_nothing_is_left_out(line: str) -> None:
    assert believe({"key_facts": [line]}, TALK).sections.count == 0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot do that.",
        json.dumps(schema()),
        "[1, 2]",
        '{"answer": 4}',
        '{"summary": "cut of',
        "{" * 500,
    ],
    ids=["empty", "prose", "echoed schema", "list", "other object", "cut", "braces"],
)
def test_an_answer_without_sections_is_told_apart_from_an_empty_one(answer: str) -> None:
    assert isinstance(from_json_answer(answer), NotReadable)


def test_an_empty_answer_is_read_as_one_that_found_nothing() -> None:
    assert read(json.dumps({"summary": "", **{name: [] for name in NAMES}})) == Sections(
        "", {name: () for name in NAMES}
    )


@pytest.mark.parametrize(
    "answer",
    [
        "```json\n" + json.dumps(GOOD) + "\n```",
        "Here it is: " + json.dumps(GOOD),
        json.dumps({key.replace("_", " ").title(): value for key, value in GOOD.items()}),
        json.dumps({**GOOD, "people": [{"name": "Anna Weber", "role": "asked about the database"}]}),
        json.dumps({**GOOD, "decisions": GOOD["decisions"][0]}),
    ],
    ids=["fenced", "introduced", "spelt otherwise", "objects", "a line for a list"],
)
def test_harmless_variants_are_forgiven(answer: str) -> None:
    found = read(answer)
    assert found.count == 5
    assert found.of("people")[0].text.startswith("Anna Weber: asked")


@pytest.mark.parametrize(
    "text",
    [
        "SUMMARY: The database moves.\nKEY FACTS:\n- The second server has 64 GB\nDECISIONS:\n"
        "- Move the database\nPEOPLE:\n- Anna Weber\nDATES:\n- None\nOPEN QUESTIONS:\n"
        "- Who pays for the second server?",
        "## Summary\nThe database moves.\n\n**Key facts:**\n1. The second server has 64 GB\n## "
        "Decisions\n* Move the database\n### People\nAnna Weber\n"
        "**Open Questions**\n• Who pays for the second server?",
    ],
    ids=["as asked for", "as Markdown"],
)
def test_marked_text_is_read_with_its_headings(text: str) -> None:
    lines = from_marked_answer(text)
    assert not isinstance(lines, NotReadable)
    found = believe(lines, TALK).sections
    assert found.summary == "The database moves."
    assert [len(found.of(name)) for name in NAMES] == [1, 1, 1, 0, 1]


@given(st.text(max_size=600), st.booleans())
def test_no_answer_breaks_the_readers(text: str, marked: bool) -> None:
    lines = from_marked_answer(text) if marked else from_json_answer(text)
    if not isinstance(lines, NotReadable):
        believe(lines, TALK)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["summary", *NAMES, "x"]), inner)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["summary", *NAMES]), JSON, min_size=1))
def test_what_is_kept_is_bounded_and_stands_in_the_text(answer: dict[str, object]) -> None:
    lines = from_json_answer(json.dumps(answer))
    assert not isinstance(lines, NotReadable)
    found = believe(lines, TALK).sections
    for name in NAMES:
        assert len(found.of(name)) <= MAX_ITEMS
        assert all(len(one.text) <= MAX_ITEM and one.quote for one in found.of(name))
    assert Sections.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_other_alphabets_are_supported_as_well() -> None:
    talk = Source.of([(1, "田中さんは来週サーバーを買うと決めました。"), (2, "Мы решили переехать в марте.")])
    found = believe({"decisions": ["サーバーを買う", "Решили переезжать в марте", "飛行機を売る"]}, talk)
    assert [one.text for one in found.sections.of("decisions")] == [
        "サーバーを買う",
        "Решили переезжать в марте",
    ]


def test_parts_are_joined_without_saying_anything_twice() -> None:
    def part(summary: str, *facts: str) -> Sections:
        return Sections(summary, {"key_facts": tuple(Item(fact, 1, fact) for fact in facts)})

    merged = merge(
        [part("First.", "The sky is blue.", "Rust is fast"), part("Then.", "the sky is BLUE", "Go")]
    )
    assert merged.summary == "First. Then."
    assert [one.text for one in merged.of("key_facts")] == ["The sky is blue.", "Rust is fast", "Go"]


def test_the_instructions_leave_the_room_that_is_counted_for_them() -> None:
    from master.council.budget import estimate_messages
    from master.knowledge.chunks import split
    from master.knowledge.messages import Said

    talk = [Said("user", "x")]
    for markers in (False, True):
        asked = prompts.extraction("0", talk, split(talk, 100)[0], markers=markers)
        assert estimate_messages(asked) <= prompts.INSTRUCTION_TOKENS


@pytest.mark.parametrize(
    ("text", "kept", "invented"),
    [
        (
            "王小明计划在2026年5月4日搬到上海。我们决定坐火车去。",
            {"people": "王小明", "dates": "2026年5月4日", "decisions": "坐火车去上海"},
            {"people": "李雷", "dates": "2027年1月1日", "key_facts": "王小明喜欢吃苹果"},
        ),
        (
            "Μαρία και Γιώργος πάνε στη Θεσσαλονίκη στις 4 Μαΐου 2026 με το τρένο.",
            {"people": "Γιώργος", "dates": "4 ΜΑΪΟΥ 2026", "key_facts": "Ταξίδι στη Θεσσαλονίκη με τρένο"},
            {"people": "Ελένη", "dates": "5 Ιουνίου 2026", "key_facts": "Το σπίτι πουλήθηκε ακριβά"},  # noqa: RUF001
        ),
        (
            "تريد ليلى السفر إلى القاهرة يوم 4 مايو 2026. قررنا أن يحجز سامي التذاكر.",
            {"people": "سامي", "dates": "4 مايو 2026", "decisions": "يحجز سامي التذاكر"},
            {"people": "خالد", "dates": "9 يونيو 2030"},
        ),
        (
            "मारिया 4 मई 2026 को दिल्ली जाना चाहती है।",
            {"people": "मारिया", "dates": "4 मई 2026", "key_facts": "मारिया दिल्ली जाना चाहती है"},
            {"people": "राहुल", "key_facts": "मुंबई में बारिश"},
        ),
    ],
    ids=["chinese", "greek", "arabic", "hindi"],
)
def test_any_alphabet_is_believed_as_far_as_its_text_supports_it(
    text: str, kept: dict[str, str], invented: dict[str, str]
) -> None:
    lines = {name: [one[name] for one in (kept, invented) if name in one] for name in NAMES}
    found = believe(lines, Source.of([(1, text)]))
    assert {name: [one.text for one in found.sections.of(name)] for name in kept} == {
        name: [line] for name, line in kept.items()
    }
    assert found.dropped == len(invented)


@pytest.mark.parametrize("mark", [": ", "：", " (", " - "], ids=["colon", "wide colon", "bracket", "dash"])  # noqa: RUF001
def test_of_a_person_with_an_invented_part_the_name_stays(mark: str) -> None:
    source = Source.of([(1, "Anna Weber asked about the database.")])
    found = believe({"people": [f"Anna Weber{mark}chief accountant of Siemens"]}, source)
    assert [one.text for one in found.sections.of("people")] == ["Anna Weber"]
