"""The page on the real thing: a master and a node as processes, Chromium, and models that mean harm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests import processes
from tests.page.conftest import OpenPage, Picture, Watch
from tests.page.script import HOSTILE
from tests.page.steps import ask
from tests.standin import StandInModel, StandInOllama
from tests.standin.model import default_reply

MODELS = ("llama3.2:1b", "qwen2.5:0.5b", "phi3.5:latest")


def harmful(name: str) -> StandInModel:
    """A model that answers with hostile text, and votes as its schema asks."""
    voter = StandInModel(name)
    return voter.with_changes(
        resident=True,
        token_ms=2,
        reply=lambda request: default_reply(voter, request) if request.get("format") else HOSTILE,
    )


@pytest_asyncio.fixture(loop_scope="session")
async def base_url(tmp_path: Path) -> AsyncIterator[str]:
    async with (
        StandInOllama([harmful(name) for name in MODELS], slots=5) as ollama,
        processes.node(tmp_path / "node", name="pc2", ollama=ollama.base_url) as node,
        processes.master(tmp_path / "master", nodes={"pc2": node.url}) as master,
    ):
        yield master.url


async def test_a_council_of_hostile_models_is_shown_and_does_nothing(
    open_page: OpenPage, watch: Watch, picture: Picture
) -> None:
    page = await open_page()
    await page.evaluate(
        "window.violations = [];"
        "addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective))"
    )
    await ask(page)
    await page.get_by_text("Full result.").wait_for()
    assert "Before." in await page.get_by_role("region", name="Final answer").inner_text()
    assert await page.evaluate("window.hacked") is None
    assert await page.evaluate("violations") == []
    assert watch.dialogs == []
    bad = ".answer-text :is(script, style, img, svg, iframe, form, input, math)"
    assert await page.locator(bad).count() == 0
    await picture(page, "real-master-desktop-light")


async def test_a_follow_up_joins_the_conversation_and_a_reload_shows_the_same(
    open_page: OpenPage, picture: Picture
) -> None:
    page = await open_page(width=390, height=844, dark=True)
    await ask(page, "What is a lock?")
    await page.get_by_text("Full result.").wait_for()
    address = page.url
    await page.reload()
    await page.get_by_text("Full result.").wait_for()
    assert page.url == address
    await page.get_by_label("Follow-up question").fill("And a semaphore?")
    await page.keyboard.press("Control+Enter")
    await page.wait_for_function("(before) => location.href !== before", arg=address)
    await page.get_by_text("Full result.").wait_for()
    assert await page.get_by_text("What is a lock?").count() > 0
    await picture(page, "real-master-phone-dark")


async def test_a_session_is_archived_and_background_work_is_shown(
    open_page: OpenPage, watch: Watch, picture: Picture
) -> None:
    page = await open_page()
    await ask(page, "What should be kept?")
    await page.get_by_text("Full result.").wait_for(timeout=30_000)
    await page.get_by_role("button", name="Archive", exact=True).click()
    await page.get_by_role("button", name="Open the archive").click(timeout=30_000)
    await page.get_by_role("heading", name="What should be kept?").wait_for()
    await page.locator(".archive-meta .pill").wait_for()
    await page.get_by_role("link", name="Background work").first.click()
    reason = page.locator(".gate-reason")
    await reason.wait_for()
    assert (await reason.inner_text()).startswith("Waiting: ")
    await page.get_by_role("region", name="Machines").get_by_text("pc2").wait_for()
    await page.get_by_role("article", name="Use of pc2").locator("canvas").first.wait_for()
    await page.get_by_role("region", name="Jobs").get_by_text("Summarise").first.wait_for()
    await picture(page, "real-master-background")
    await page.get_by_role("link", name="Archives").first.click()
    await page.locator(".archive-line").first.wait_for()
    assert watch.dialogs == []
