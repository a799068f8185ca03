"""What the job engine's tables ask of SQLite and a version before 3.42 does not have.

On Python 3.12 and newer the engine (DBOS) takes for granted that `unixepoch` knows `subsec`. Python is linked
to the SQLite of its system, which may be older (3.40 on Debian 12): then the time of a row is NULL, and the
row is refused.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import Engine, event

KNOWS_SUBSEC = (3, 42)


def teach() -> None:
    """Give every connection that SQLAlchemy opens from now on the newer function, where SQLite is older."""
    if sqlite3.sqlite_version_info < KNOWS_SUBSEC and not event.contains(Engine, "connect", _teach_one):
        event.listen(Engine, "connect", _teach_one)


def _teach_one(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.create_function("unixepoch", -1, unixepoch)


def unixepoch(*arguments: object) -> float:
    """The time now as SQLite 3.42 tells it: `unixepoch()`, and with `subsec` in fractions of a second.

    Raises `ValueError` for any other time, which the engine asks of nobody.
    """
    asked = set(arguments) - {"now"}
    if asked - {"subsec", "subsecond"}:
        raise ValueError(f"unixepoch{arguments} is not taught")
    return time.time() if asked else int(time.time())
