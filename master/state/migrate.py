"""Bring the tables up to date when a master starts."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from common.errors import SettingsError
from master.state.storage_errors import translate

_MIGRATING = 0x6C616E63_00000001  # the key of a lock on the server: "lanc", 1
_FOLDER = Path(__file__).parent / "migrations"


async def to_head(engine: AsyncEngine) -> None:
    """Run the missing revisions in one transaction. A database of a newer program is a `SettingsError`."""
    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    except (SQLAlchemyError, OSError) as error:
        raise translate(error) from error


async def require_head(engine: AsyncEngine) -> None:
    """Raise `SettingsError` where the tables are not those of this program. Changes nothing."""
    try:
        async with engine.connect() as connection:
            current = await connection.run_sync(current_revision)
    except (SQLAlchemyError, OSError) as error:
        raise translate(error) from error
    if current != head_revision():
        raise SettingsError(
            f"the database is of another version (revision {current}, not {head_revision()}); start the "
            "master of this version first"
        )


def upgrade(connection: Connection) -> None:
    """Run the missing revisions on an open transaction. Raises `SettingsError` and foreign errors."""
    if connection.dialect.name == "postgresql":
        # Of several masters that start together one migrates, and takes the time that it needs.
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
    config = _config()
    config.attributes["connection"] = connection
    current = current_revision(connection)
    if current == head_revision():
        return
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SettingsError(
            f"the database was made by a newer version of lan-council (revision {current}); upgrade this one"
        ) from error


def current_revision(connection: Connection) -> str | None:
    """The revision of the tables that are there; `None` where there are none of ours."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    """The revision of the tables that this program uses."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def knows_revision(revision: str) -> bool:
    """Whether this program can bring tables of that revision up to date."""
    return revision in {one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config
