"""One small cluster per module, for tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.service.master import rig
from tests.service.master.rig import Rig


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig.running(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared_cluster: Rig) -> AsyncIterator[Rig]:
    """The module's cluster, its engine made new after the test. For `asyncio(loop_scope="module")` tests."""
    yield shared_cluster
    shared_cluster.assert_no_traceback()
    await shared_cluster.forget()
