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


def upgrade(connection: Connection) -> None:
    """Run the missing revisions on an open transaction. Raises `SettingsError` and foreign errors."""
    if connection.dialect.name == "postgresql":
        # Of several masters that start together one migrates, and takes the time that it needs.
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SettingsError(
            f"the database was made by a newer version of lan-council (revision {current}); upgrade this one"
        ) from error
