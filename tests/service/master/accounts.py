"""What the database and the engine say of the same calls: both are read beside the master, to be compared."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg.rows import dict_row

from master.cluster import canary
from tests.service.master.rig import CHAIRMAN
from tests.standin.journal import CallRecord

Attempt = dict[str, Any]


def rows(where: Path | str, query: str = "SELECT * FROM attempts") -> list[dict[str, Any]]:
    """What is committed in a data folder or at the address of a PostgreSQL database, read beside the master
    or after its death.
    """
    if isinstance(where, str):
        with closing(psycopg.connect(where, row_factory=dict_row, autocommit=True)) as server:
            return server.execute(cast("Any", query)).fetchall()
    file = where / "council.db"
    if not file.exists():
        return []
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10.0)
    try:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]
    finally:
        connection.close()


def calls_of(attempts: list[dict[str, Any]], *outcomes: str) -> Counter[tuple[str, str]]:
    """How many attempts with these outcomes each (stage, model) has."""
    return Counter((one["stage"], one["model"]) for one in attempts if one["outcome"] in outcomes)


def is_canary(call: CallRecord) -> bool:
    """Whether the master asked a node that had failed for one token: no call of any session."""
    return [one.get("content") for one in call.messages] == [canary.PROMPT]


def model_of(call: CallRecord) -> str:
    """The model's name as the session has it: an engine adds the tag that everybody leaves out."""
    return call.model.removesuffix(":latest")


def stage_of(call: CallRecord) -> str:
    """The stage of an engine call: ballots have a schema, chairmen do nothing but preside."""
    if call.format_present:
        return "review"
    return "synthesis" if model_of(call) in (CHAIRMAN, "deputy") else "opinions"


def place_of(call: CallRecord) -> tuple[str, str]:
    """(stage, model), as `calls_of` counts attempts."""
    return stage_of(call), model_of(call)
