"""The job engine's tables on the SQLite of an older system."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import create_engine, text

from master.state import old_sqlite
from master.state.old_sqlite import unixepoch


def test_every_connection_knows_fractions_of_a_second_whatever_sqlite_it_has() -> None:
    old_sqlite.teach()
    engine = create_engine("sqlite://")
    with engine.begin() as db:
        db.execute(
            text("CREATE TABLE rows (id INTEGER, at INTEGER NOT NULL DEFAULT (unixepoch('subsec') * 1000))")
        )
        before = time.time()
        db.execute(text("INSERT INTO rows (id) VALUES (1)"))
        at_ms = db.scalar(text("SELECT at FROM rows"))
    engine.dispose()
    assert at_ms is not None
    assert abs(at_ms / 1000 - before) < 5


def test_what_is_taught_is_the_time_now_and_no_other() -> None:
    assert isinstance(unixepoch(), int)
    assert abs(unixepoch("now", "subsec") - time.time()) < 5
    with pytest.raises(ValueError, match="not taught"):
        unixepoch("2020-01-01")
