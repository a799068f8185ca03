"""Every database of the past becomes today's; one of the future is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine

from common.errors import InternalError, SettingsError
from master.state import migrate
from master.state.store import Store
from master.state.tables import Base
from tests.unit.state.builders import plan
from tests.unit.state.conftest import address_in


def scripts(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


REVISIONS = [one.revision for one in ScriptDirectory.from_config(scripts()).walk_revisions()][::-1]


def sync_engine(address: str) -> Engine:
    return create_engine(address.replace("postgresql://", "postgresql+psycopg://"))


def schema(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "council.db")) as raw:
        return sorted(raw.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())


async def test_an_empty_database_gets_exactly_the_tables_that_the_program_uses(
    empty_address: str, tmp_path: Path
) -> None:
    await (await Store.open(empty_address, data_dir=tmp_path)).close()
    engine = sync_engine(empty_address)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert MigrationContext.configure(connection).get_current_revision() == REVISIONS[-1]
    engine.dispose()


async def test_opening_again_changes_nothing_and_keeps_everything(tmp_path: Path) -> None:
    first = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    asked = plan()
    await first.sessions.create(asked)
    await first.close()
    before = schema(tmp_path)
    second = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    assert (await second.sessions.load(asked.session_id)).plan == asked
    await second.close()
    assert schema(tmp_path) == before


@pytest.mark.parametrize("revision", REVISIONS[:-1])
async def test_a_database_of_every_earlier_version_is_brought_up_to_date(
    empty_address: str, tmp_path: Path, revision: str
) -> None:
    engine = sync_engine(empty_address)
    with engine.begin() as connection:
        command.upgrade(scripts(connection), revision)
        connection.exec_driver_sql(
            "INSERT INTO nodes (name, url, draining, added_at) "
            "VALUES ('pc2', 'http://a', false, '2026-01-01')"
        )
    engine.dispose()
    store = await Store.open(empty_address, data_dir=tmp_path)
    assert [one.name for one in await store.nodes.list()] == ["pc2"]
    await store.sessions.create(plan())
    await store.check()
    await store.close()


async def test_a_database_of_a_newer_program_is_refused_and_not_touched(tmp_path: Path) -> None:
    await (await Store.open(address_in(tmp_path), data_dir=tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "council.db", isolation_level=None)) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    before = schema(tmp_path)
    for _ in range(2):
        with pytest.raises(SettingsError, match="newer version of lan-council"):
            await Store.open(address_in(tmp_path), data_dir=tmp_path)
    assert schema(tmp_path) == before


async def test_a_migration_that_breaks_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(address_in(tmp_path))
    with engine.begin() as connection:
        command.upgrade(scripts(connection), REVISIONS[0])
        connection.exec_driver_sql(
            "CREATE TABLE pulse (id INTEGER)"
        )  # in the way of the next one's last steps
    engine.dispose()
    before = schema(tmp_path)
    with pytest.raises(InternalError, match="pulse"):
        await Store.open(address_in(tmp_path), data_dir=tmp_path)
    assert schema(tmp_path) == before
