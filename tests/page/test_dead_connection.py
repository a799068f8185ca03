"""The page on a connection that is open and dead, as after a change of Wi-Fi or a laptop's sleep."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests import processes
from tests.page.conftest import OpenPage
from tests.page.steps import ask
from tests.service.chaos.slow_link import SlowLink
from tests.standin import StandInModel, StandInOllama

MODELS = ("llama3.2:1b", "qwen2.5:0.5b", "phi3.5:latest")


@pytest_asyncio.fixture(loop_scope="session")
async def link(tmp_path: Path) -> AsyncIterator[SlowLink]:
    models = [StandInModel(name, resident=True, token_ms=150) for name in MODELS]
    async with (
        StandInOllama(models, slots=5) as ollama,
        processes.node(tmp_path / "node", name="pc2", ollama=ollama.base_url) as node,
        processes.master(tmp_path / "master", nodes={"pc2": node.url}) as master,
        SlowLink("127.0.0.1", int(master.url.rsplit(":", 1)[-1])).open() as found,
    ):
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def base_url(link: SlowLink) -> str:
    return link.url


async def test_a_page_that_hears_nothing_asks_anew_and_shows_the_end(
    open_page: OpenPage, link: SlowLink
) -> None:
    page = await open_page()
    await page.clock.install()
    await ask(page)
    await page.get_by_text("answers:").first.wait_for()
    link.strand()
    await page.clock.fast_forward(25_000)
    await page.get_by_text("Full result.").wait_for()
