"""Archives in the database, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.errors import ConflictError, InvalidRequestError, NotFoundError
from master.background.types.summarise import SUMMARISE
from master.knowledge.messages import Said
from master.state.jobs import NewJob
from master.state.store import Store
from tests.unit.knowledge.jobs import keep


async def found(store: Store, **params: Any) -> list[str]:
    archives, _ = await store.archives.list(**params)
    return [one.id for one in archives]


async def queued(store: Store, archive_id: str) -> str:
    """Give an archive a job of its own; the job's id."""
    made: list[str] = []

    async def queue(db: Any) -> str:
        job = NewJob(SUMMARISE.name, {"archive_id": archive_id}, SUMMARISE.priority)
        made.append((await store.jobs.add(db, job)).id)
        return made[0]

    assert await store.archives.requeue(archive_id, queue)
    return made[0]


async def test_a_search_finds_parts_of_words_in_any_alphabet_and_no_wildcard(store: Store) -> None:
    greek = await keep(store, [Said("user", "Μένει η Μαρία στη Θεσσαλονίκη;")])
    chinese = await keep(store, [Said("user", "王小明搬到上海。")])
    percent = await keep(store, [Said("user", "It is 100% sure, says snake_case \\ Straße.")])
    for q, wanted in (
        ("ΜΑΡΙΑ", greek),  # noqa: RUF001  # Greek
        ("θεσσαλονικη μαρια", greek),
        ("上海", chinese),
        ("小明 搬", chinese),
        ("100%", percent),
        ("snake_case", percent),
        ("\\", percent),
        ("STRASSE", percent),
    ):
        assert await found(store, q=q) == [wanted], q
    for q in ("1%0", "snakeXcase", "μαρία 上海", "'; --"):
        assert await found(store, q=q) == [], q
    assert set(await found(store, q="  ")) == {greek, chinese, percent}


async def test_the_same_words_brought_at_the_same_moment_are_one_archive(store: Store) -> None:
    talk = [Said("user", "At once.")]
    ids = await asyncio.gather(*(keep(store, talk) for _ in range(6)))
    assert len(set(ids)) == 1
    assert (await store.archives.statistics()).total == 1


async def test_where_an_archive_stands_is_where_its_job_stands(store: Store) -> None:
    archive_id = await keep(store, [Said("user", "Where do I stand?")])
    assert await store.archives.without_job() == [archive_id]

    async def stands() -> str:
        return (await store.archives.summary(archive_id)).status

    assert await stands() == "stored"
    job_id = await queued(store, archive_id)
    assert (await stands(), await store.archives.without_job()) == ("queued", [])
    assert await found(store, status="queued") == [archive_id]
    await store.job_control.cancel(job_id)
    assert await stands() == "failed"
    assert await found(store, status="queued") == []
    assert (await store.archives.statistics()).by_status["failed"] == 1
    with pytest.raises(ConflictError):
        await store.archives.reopen(archive_id, {}, 1, lambda db: asyncio.sleep(0, "job"))


async def test_pages_hold_every_archive_once(store: Store) -> None:
    kept = {await keep(store, [Said("user", f"Page {n}")]) for n in range(7)}
    seen: list[str] = []
    cursor = None
    while True:
        archives, cursor = await store.archives.list(limit=3, cursor=cursor)
        seen += [one.id for one in archives]
        if cursor is None:
            break
    assert (len(seen), set(seen)) == (7, kept)
    with pytest.raises(InvalidRequestError):
        await store.archives.list(cursor="made up")


async def test_archives_of_the_same_are_related_until_they_are_deleted(store: Store) -> None:
    about = "The zeppelin hangar at Friedrichshafen burnt down {}."
    first = await keep(store, [Said("user", about.format("in winter"))])
    second = await keep(store, [Said("user", about.format("in the storm"))])
    await keep(store, [Said("user", "Tea is older than coffee.")])
    related = await store.archives.related(first)
    assert [one.archive_id for one, _ in related] == [second]
    assert {"zeppelin", "hangar"} <= set(related[0][0].terms)
    await store.archives.delete(second)
    assert await store.archives.related(first) == []
    with pytest.raises(NotFoundError):
        await store.archives.delete(second)
    statistics = await store.archives.statistics()
    assert (statistics.total, statistics.by_source, statistics.messages) == (2, {"messages": 2}, 2)
