"""A database moves whole and verified to the other kind and back, or not at all."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Table, insert

from common.errors import ConflictError, CouncilError, InternalError, SettingsError
from master.cluster.speeds import Learned
from master.state import moving
from master.state.checkup import check
from master.state.database import parse_address
from master.state.moving import move
from master.state.store import Store
from tests.unit.state.builders import done, plan, snapshot
from tests.unit.state.conftest import address_in

ODD = 'Straße ΚΑΛΗ "quotes" \\ back \U0001f600 \ufffd\n\ttab'


async def filled(address: str, folder: Path, sessions: int = 30) -> None:
    store = await Store.open(address, data_dir=folder)
    for number in range(sessions):
        asked = plan(f"{ODD} {number}", options={"temperature": 0.1 + number})
        await store.sessions.create(asked, idempotency_key=f"k{number}")
        for attempt in range(1, 5):
            await store.sessions.finish_attempt(asked.session_id, done(attempt=attempt, text=ODD * 20))
        await store.sessions.set_state(asked.session_id, "completed", snapshot=snapshot(), answer=ODD)
    await store.nodes.add("pc2", "http://10.0.0.2:8001", "secret", None)
    await store.access.add_key("me", "d" * 64, "admin")
    await store.speeds.keep([Learned("pc2", "main", "m", "load", 1 / 3, 3)])
    await store.check()
    await store.close()


def digest_of(folder: Path) -> str:
    return hashlib.sha256((folder / "council.db").read_bytes()).hexdigest()


@pytest.mark.parametrize("prepared", [False, True], ids=["no tables", "tables without rows"])
async def test_a_council_moves_to_a_server_and_back_and_the_source_is_as_it_was(
    tmp_path: Path, prepared: bool, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue("postgres_url" if prepared else "empty_postgres_url")
    here = tmp_path / "here"
    await filled(address_in(here), here)
    before, counts = digest_of(here), check(parse_address(address_in(here))).counts
    told: list[tuple[str, int, int]] = []
    moved = move(
        parse_address(address_in(here)),
        parse_address(url),
        here,
        progress=lambda *news: told.append(news),
    )
    assert digest_of(here) == before
    assert (counts["sessions"], counts["attempts"]) == (30, 120)
    assert check(parse_address(url)).counts == counts
    assert check(parse_address(url)).problems == []
    of_masters = {"masters": 0, "cluster_secrets": 0}  # they belong to a server, and not to what moves
    assert {name: rows for name, (rows, _) in moved.tables.items()} | of_masters == counts
    assert ("attempts", 120, 120) in told
    store = await Store.open(url, data_dir=tmp_path / "there")
    listed, _ = await store.sessions.list(limit=100)
    await store.sessions.create(plan())
    session = await store.sessions.load(listed[0].id)
    await store.sessions.delete((await store.sessions.unfinished())[0])
    await store.close()
    assert ODD * 20 in {one.text for one in session.records}

    back = tmp_path / "back"
    back.mkdir()
    again = move(parse_address(url), parse_address(address_in(back)), tmp_path / "there")
    unchanged = set(moved.tables) - {"pulse"}
    assert {name: again.tables[name] for name in unchanged} == {
        name: moved.tables[name] for name in unchanged
    }
    assert check(parse_address(address_in(back))).to_json()["ok"]


async def test_nothing_moves_while_a_session_has_not_ended(empty_postgres_url: str, tmp_path: Path) -> None:
    store = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    await store.sessions.create(plan())
    with pytest.raises(SettingsError, match="another master"):
        move(parse_address(address_in(tmp_path)), parse_address(empty_postgres_url), tmp_path)
    await store.close()
    with pytest.raises(ConflictError, match="1 session"):
        move(parse_address(address_in(tmp_path)), parse_address(empty_postgres_url), tmp_path)
    assert check(parse_address(empty_postgres_url)).counts == {}


async def test_a_target_with_rows_or_in_use_is_refused_and_left_alone(
    postgres_url: str, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await filled(address_in(here), here, 1)
    store = await Store.open(postgres_url, data_dir=there)
    with pytest.raises(ConflictError, match="stop every master"):
        move(parse_address(address_in(here)), parse_address(postgres_url), here)
    await store.nodes.add("theirs", "http://10.0.0.9:8001", None, None)
    await store.close()
    with pytest.raises(ConflictError, match="1 rows in nodes"):
        move(parse_address(address_in(here)), parse_address(postgres_url), here)
    assert check(parse_address(postgres_url)).counts["sessions"] == 0


async def test_a_copy_that_breaks_or_differs_leaves_nothing_behind(
    empty_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    await filled(address_in(here), here, 2)
    source = parse_address(address_in(here))

    def cut(table: Table) -> object:
        if table.name == "attempts":
            raise RuntimeError("the cable was pulled")
        return insert(table)

    add = moving._Digest.add
    for target in (empty_postgres_url, address_in(tmp_path)):
        with monkeypatch.context() as patch:
            patch.setattr(moving, "insert", cut)
            with pytest.raises(RuntimeError, match="cable"):
                move(source, parse_address(target), here)
        with monkeypatch.context() as patch:
            patch.setattr(moving._Digest, "add", lambda self, row: add(self, {**row, "end": id(self)}))
            with pytest.raises(InternalError, match="arrived differently"):
                move(source, parse_address(target), here)
    assert check(parse_address(empty_postgres_url)).counts == {}
    assert not (tmp_path / "council.db").exists()
    move(source, parse_address(empty_postgres_url), here)


async def test_tables_of_another_version_do_not_move(empty_postgres_url: str, tmp_path: Path) -> None:
    await filled(address_in(tmp_path), tmp_path, 1)
    shutil.copy(tmp_path / "council.db", tmp_path / "old.db")
    with closing(sqlite3.connect(tmp_path / "old.db")) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(CouncilError, match="newest master once"):
        move(parse_address(f"sqlite:///{tmp_path / 'old.db'}"), parse_address(empty_postgres_url), tmp_path)
