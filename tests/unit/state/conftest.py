from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from master.state.store import Store


def address_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'council.db'}"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(address_in(tmp_path), data_dir=tmp_path)
    try:
        yield opened
    finally:
        await opened.close()
