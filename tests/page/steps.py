"""Steps that many tests of the page begin with."""

from playwright.async_api import Page

QUESTION = "Which algorithm should our API use to limit request rates?"


async def ask(page: Page, text: str = QUESTION) -> None:
    """Ask on the front page and wait until the session is shown."""
    await page.get_by_label("Your question").fill(text)
    await page.get_by_role("button", name="Ask the council").click()
    await page.wait_for_selector("#session-question")
