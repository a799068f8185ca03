"""A scripted master and the command, for every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.cli.command import Council
from tests.service.cli.fake_master import FakeMaster, serving


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    with serving(FakeMaster()) as running:
        yield running


@pytest.fixture
def council(tmp_path: Path) -> Council:
    return Council(tmp_path)
