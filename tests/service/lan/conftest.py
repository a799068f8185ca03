"""One master for the tests that do it no harm, and an engine for their nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.service.lan.lan import LanMaster, lan_master
from tests.standin import StandInModel, StandInOllama


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def master(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LanMaster]:
    async with lan_master(tmp_path_factory.mktemp("lan") / "master") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def standin() -> AsyncIterator[StandInOllama]:
    async with StandInOllama([StandInModel("m1", token_ms=1, resident=True)]) as running:
        yield running
