from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from master.state.store import Store
from tests.conftest import BACKENDS


def address_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'council.db'}"


@pytest.fixture(params=BACKENDS)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database of the test's own is, on each kind of database."""
    if request.param == "sqlite":
        return address_in(tmp_path)
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture(params=BACKENDS)
def empty_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same without a table in it."""
    if request.param == "sqlite":
        return address_in(tmp_path)
    found: str = request.getfixturevalue("empty_postgres_url")
    return found


@pytest.fixture
async def store(address: str, tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(address, data_dir=tmp_path)
    try:
        yield opened
    finally:
        await opened.close()
