"""What every folder of tests may ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import settings

from tests import postgres
from tests.postgres import PostgresServer

Backend = Literal["sqlite", "postgresql"]
BACKENDS: tuple[Backend, ...] = ("sqlite", "postgresql")

# Every property is searched a little at each run and at length by `make test-long`. What a search has found
# stays as an `@example`.
settings.register_profile("normal", max_examples=60, deadline=None)
settings.register_profile("long", max_examples=1000, deadline=None)
settings.load_profile("normal")


def pytest_configure(config: pytest.Config) -> None:
    del config
    postgres.open_run()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave properties unmeasured: lines of plain tests run thousands of times, at thrice the cost."""
    for item in items:
        if item.get_closest_marker("hypothesis"):
            item.add_marker("no_cover")


def pytest_unconfigure(config: pytest.Config) -> None:
    del config
    postgres.close_run()


@pytest.fixture(scope="session")
def postgres_server() -> PostgresServer:
    """The run's PostgreSQL. Skips where none is installed, which under CI is a failure."""
    require_postgres()
    return postgres.server()


def require_postgres() -> None:
    """Skip what needs PostgreSQL where it is not installed."""
    if postgres.binaries() is None:
        missing = f"PostgreSQL is not installed: {postgres.INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture(scope="session")
def worker_database(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of this process, for one test after the other."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, worker_database: str) -> str:
    """The address of a PostgreSQL database with today's tables and no rows."""
    postgres_server.empty(worker_database.rpartition("/")[2])
    return worker_database


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a PostgreSQL database without a table."""
    with postgres_server.database(empty=True) as url:
        yield url
