"""Lists are whole, in order, and searched by words and not by patterns."""

from __future__ import annotations

import base64
import json

import pytest

from common.errors import InvalidRequestError
from master.state.sessions import SessionSummary
from master.state.store import Store
from tests.unit.state.builders import NOON, plan


async def ask(store: Store, question: str, at: float = NOON, answer: str | None = None) -> str:
    one = plan(question, created_at=at)
    await store.sessions.create(one)
    await store.sessions.set_state(one.session_id, "completed", answer=answer)
    return one.session_id


async def pages(store: Store, limit: int) -> list[list[SessionSummary]]:
    found, cursor = await store.sessions.list(limit=limit)
    all_pages = [found]
    while cursor is not None:
        found, cursor = await store.sessions.list(limit=limit, cursor=cursor)
        all_pages.append(found)
    return all_pages


@pytest.mark.parametrize("limit", [1, 3, 5, 10, 11])
async def test_pages_hold_every_session_once_newest_first(store: Store, limit: int) -> None:
    # Three at each moment: equal times must not lose or repeat a row at a page's edge.
    asked = [await ask(store, f"q{number}", NOON + number // 3) for number in range(10)]
    found = await pages(store, limit)
    lines = [one for page in found for one in page]
    assert sorted(one.id for one in lines) == sorted(asked)
    assert [one.created_at for one in lines] == sorted((one.created_at for one in lines), reverse=True)
    assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
    assert found[-1]


async def test_sessions_that_come_and_go_between_pages_shift_nothing(store: Store) -> None:
    asked = [await ask(store, f"q{number}", NOON + number) for number in range(9)]
    first, cursor = await store.sessions.list(limit=3)
    await ask(store, "newer", NOON + 100)
    await store.sessions.delete(first[-1].id)  # the very row that the cursor names
    await store.sessions.delete(asked[0])
    seen = [one.id for one in first]
    while cursor is not None:
        page, cursor = await store.sessions.list(limit=3, cursor=cursor)
        seen += [one.id for one in page]
    assert seen == list(reversed(asked[1:]))


async def test_conversations_are_paged_by_their_last_use(store: Store) -> None:
    talks = [plan(f"talk {number}", created_at=NOON + number) for number in range(5)]
    for one in talks:
        await store.sessions.create(one)
    await store.sessions.set_state(talks[0].session_id, "completed")
    again = plan("more", conversation_id=talks[0].conversation_id, created_at=NOON + 50)
    await store.sessions.create(again)
    first, cursor = await store.sessions.conversations(limit=3)
    rest, end = await store.sessions.conversations(limit=3, cursor=cursor)
    expected = [talks[0], *reversed(talks[1:])]
    assert [one.id for one in (*first, *rest)] == [one.conversation_id for one in expected]
    assert (first[0].title, first[0].sessions) == ("talk 0", 2)
    assert end is None


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("100%", ["a saving of 100% on _names_"]),
        ("_names_", ["a saving of 100% on _names_"]),
        ("%", ["a saving of 100% on _names_"]),
        ("\\", ["a path like C:\\temp"]),
        ("PATH like", ["a path like C:\\temp"]),
        ("like path", ["a path like C:\\temp"]),
        ("straße", ["Die STRASSE oder Straße?"]),
        ("ΚΑΛΗ", ["καλημέρα κόσμε"]),
        ("rayleigh", ["Why blue?"]),
        ("' OR 1=1 --", []),
        ("absent", []),
    ],
)
async def test_a_search_finds_words_in_questions_and_answers_literally(
    store: Store, q: str, expected: list[str]
) -> None:
    await ask(store, "a saving of 100% on _names_")
    await ask(store, "a path like C:\\temp")
    await ask(store, "Die STRASSE oder Straße?")
    await ask(store, "καλημέρα κόσμε")
    await ask(store, "Why blue?", answer="Because of Rayleigh.")
    found, _ = await store.sessions.list(q=q)
    assert [one.question for one in found] == expected


async def test_an_empty_search_finds_everything(store: Store) -> None:
    await ask(store, "one")
    assert len((await store.sessions.list(q="  "))[0]) == 1
    assert (await store.sessions.list(q="word " * 500))[0] == []  # and no limit of the database is met


async def test_a_line_tells_what_the_plan_says_and_cuts_a_book(store: Store) -> None:
    one = plan("w" * 65_536, practice=True)
    await store.sessions.create(one)
    (line,), _ = await store.sessions.list()
    assert line == SessionSummary(
        id=one.session_id,
        conversation_id=one.conversation_id,
        question="w" * 1000,
        state="queued",
        result=None,
        chairman="boss:3b",
        practice=True,
        cached=False,
        total_tokens=0,
        total_duration_ms=0.0,
        created_at=line.created_at,
        completed_at=None,
    )
    assert line.created_at.timestamp() == NOON


async def test_a_list_is_at_most_two_hundred_lines(store: Store) -> None:
    for number in range(201):
        await ask(store, f"q{number}", NOON + number)
    found, cursor = await store.sessions.list(limit=1_000_000)
    assert len(found) == 200
    assert cursor is not None
    assert len((await store.sessions.list(limit=0))[0]) == 1


def forged(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "no",
        "ÄÖ",
        "////",
        forged(),
        forged(1, 2),
        forged("2026-13-01", "x"),
        forged("today", "x"),
        "a" * 199,
    ],
)
async def test_a_cursor_of_somebody_elses_making_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequestError, match="cursor"):
        await store.sessions.list(cursor=cursor)
    with pytest.raises(InvalidRequestError, match="cursor"):
        await store.sessions.conversations(cursor=cursor)


async def test_a_cursor_at_the_end_of_time_gives_a_page_or_is_refused(store: Store) -> None:
    await ask(store, "one")
    for moment in ("0001-01-01T00:00:00", "9999-12-31T23:59:59-23:00"):
        try:
            found, _ = await store.sessions.list(cursor=forged(moment, "x"))
        except InvalidRequestError:
            continue
        assert len(found) <= 1
