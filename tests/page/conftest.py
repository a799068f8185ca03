"""A real browser on the page. Any console error or page error fails the test.

`COUNCIL_TEST_URL` points the tests that need no script at a running master instead.
"""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Dialog, Page, Request, async_playwright, expect

from tests.page.fake_master import FakeMaster, running

OpenPage = Callable[..., Awaitable[Page]]
Picture = Callable[..., Awaitable[Path]]

PATIENCE_MS = 40_000  # for whatever is waited for: a browser beside three other tests is slow
expect.set_options(timeout=PATIENCE_MS)
# The popups of the address bar are pages of their own in every window: they cost as much CPU as ours.
# Of two lists of features Chromium heeds the last, so that this one repeats what Playwright turns off.
FEATURES_OFF = [
    "WebUIOmniboxPopup", "WebUIOmniboxAimPopup",
    "AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay",
    "MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch",
    "TcpPortRandomizationWin", "ThirdPartyStoragePartitioning",
]  # fmt: skip
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", f"--disable-features={','.join(FEATURES_OFF)}",
]  # fmt: skip


def browser_path() -> str:
    """The system's Chromium; without one the tests are skipped, under CI they fail."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
    if Path(found).exists():
        return found
    message = "no Chromium: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for all tests of the page, because they share a browser: its start costs more than a test."""
    for item in items:
        if Path(__file__).parent in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        running_browser = await playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        yield running_browser
        await running_browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def fake() -> AsyncIterator[FakeMaster]:
    """The scripted master; set its `script` before the page asks."""
    yield FakeMaster()


@pytest_asyncio.fixture(loop_scope="session")
async def base_url(fake: FakeMaster) -> AsyncIterator[str]:
    """Where the page is served from."""
    given = os.environ.get("COUNCIL_TEST_URL")
    if given:
        yield given
        return
    async with running(fake) as address:
        yield address


class Watch:
    """What went wrong in a page, and every address it asked."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.addresses: list[str] = []
        self.allowed: list[str] = []

    def follow(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)

        async def dismiss(dialog: Dialog) -> None:
            self.dialogs.append(dialog.message)
            await dialog.dismiss()

        page.on("dialog", dismiss)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} {message.location}")

    def _request(self, request: Request) -> None:
        self.addresses.append(request.url)

    def unexpected(self) -> list[str]:
        return [error for error in self.errors if not any(part in error for part in self.allowed)]


@pytest_asyncio.fixture(loop_scope="session")
async def watch() -> Watch:
    """Tests that provoke an error name it in `watch.allowed`."""
    return Watch()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, base_url: str, watch: Watch) -> AsyncIterator[OpenPage]:
    """Opens the page, each time for somebody who was never here:
    `await open_page(width=390, dark=True, path="#/cluster")`.
    """
    async with contextlib.AsyncExitStack() as visits:

        async def open_(
            width: int = 1280, height: int = 860, dark: bool = False, path: str = "", **more: Any
        ) -> Any:
            context = await browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", **more
            )
            visits.push_async_callback(context.close)
            context.set_default_timeout(PATIENCE_MS)
            page = await context.new_page()
            watch.follow(page)
            await page.goto(f"{base_url}/{path}")
            await page.wait_for_selector("main h1, main .session, main .banner")
            return page

        yield open_
    assert watch.unexpected() == []
    assert [one for one in watch.addresses if not one.startswith((base_url, "data:", "blob:"))] == []


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    """Writes a screenshot into the folder of `COUNCIL_TEST_ARTEFACTS`, or a temporary one."""
    folder = Path(os.environ.get("COUNCIL_TEST_ARTEFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    async def take(page: Page, name: str, whole: bool = True) -> Path:
        path = folder / f"{name}.png"
        if whole:
            await page.evaluate("scrollTo(0, 0)")
        await page.screenshot(path=str(path), full_page=whole, animations="disabled")
        return path

    return take
