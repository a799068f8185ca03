"""Background work on the page: the gate and its reasons, jobs, dead letters, figures, and archives."""

from playwright.async_api import expect

from tests.page.conftest import OpenPage, Picture, Watch
from tests.page.fake_background import GATE, archive, job
from tests.page.fake_master import FakeMaster
from tests.page.steps import ask

PHONE = {"width": 390, "height": 844, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
CAUSE = {"title": "The prompt does not fit the context", "detail": "chunk 3 has 9,000 tokens of 8,192"}


def busy(fake: FakeMaster) -> None:
    fake.work.jobs = [
        job(1, "running", progress={"done": 2, "total": 5, "note": "chunk 3"}),
        job(2, input={}),
        job(3, "dead", attempts=5, cause=CAUSE),
        job(4, "done", ended_at="2026-11-21T09:50:00Z"),
    ]  # fmt: skip


async def test_the_gate_says_why_and_changes_while_it_is_looked_at(
    fake: FakeMaster, open_page: OpenPage
) -> None:
    page = await open_page()
    await page.get_by_role("link", name="Background work").click()
    reason = page.locator(".gate-reason")
    await expect(reason).to_have_text("Waiting: 142 s until idle; CPU 61 % > 50 %.")
    row = page.get_by_role("row", name="pc3")
    await expect(row).to_contain_text("it runs on battery")
    await expect(page.get_by_text("Mon-Fri 9-12, 14-18")).to_be_visible()
    fake.work.gate = {
        **GATE, "state": "idle", "open": True, "reason": "open: nothing interactive for 301 s",
    }  # fmt: skip
    await expect(reason).to_have_text("Open: nothing interactive for 301 s.")
    await expect(page.get_by_text("Open · Idle")).to_be_visible()
    await expect(page.get_by_text("Long jobs: waiting: 27 min until long idle.")).to_be_visible()


async def test_jobs_show_their_progress_and_can_be_cancelled(fake: FakeMaster, open_page: OpenPage) -> None:
    busy(fake)
    page = await open_page(path="#/background")
    jobs = page.get_by_role("region", name="Jobs")
    await expect(jobs.get_by_text("2 of 5, chunk 3")).to_be_visible()
    await expect(jobs.locator("progress")).to_have_attribute("value", "2")
    await expect(jobs.get_by_text("1 job waiting: 142 s until idle; CPU 61 % > 50 %.")).to_be_visible()
    await jobs.get_by_role("button", name="Cancel Summarise").first.click()
    await expect(jobs.get_by_text("Cancelled")).to_be_visible()
    assert fake.work.jobs[0]["state"] == "cancelled"
    await jobs.get_by_role("button", name="Pause the queue").click()
    await expect(page.get_by_text("The queue is paused.")).to_be_visible()
    await jobs.get_by_role("button", name="Resume the queue").click()
    await expect(page.get_by_text("The queue is paused.")).to_have_count(0)


async def test_dead_letters_tell_their_cause_and_are_retried_or_dismissed(
    fake: FakeMaster, open_page: OpenPage
) -> None:
    fake.work.jobs = [job(number, "dead", attempts=5, cause=CAUSE) for number in range(3)]
    page = await open_page(path="#/background")
    letters = page.get_by_role("region", name="Dead letters")
    await expect(letters.get_by_text("chunk 3 has 9,000 tokens of 8,192")).to_have_count(3)
    await letters.get_by_role("button", name="Retry dead letter").first.click()
    await expect(letters.locator(".job")).to_have_count(2)
    await letters.get_by_role("button", name="Dismiss dead letter").first.click()
    await expect(letters.locator(".job")).to_have_count(1)
    await letters.get_by_role("button", name="Retry all").click()
    await expect(letters).to_have_count(0)
    assert [one["state"] for one in fake.work.jobs] == ["queued", "failed", "queued"]


async def test_charts_show_both_engines_side_by_side(fake: FakeMaster, open_page: OpenPage) -> None:
    page = await open_page(path="#/background")
    card = page.get_by_role("article", name="Use of pc2")
    await expect(card.locator("canvas")).to_have_count(2)
    for part, memory in (("Main engine", "4.8 GB"), ("Background engine", "2.1 GB")):
        await expect(card.get_by_role("row", name=part).first).to_contain_text(memory)
    drawn = (
        "(canvas) => new Set(canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data).size > 20"
    )
    assert await card.locator("canvas").first.evaluate(drawn)
    await page.get_by_role("button", name="24 h").click()
    await expect(page.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "true")
    async with page.expect_request(lambda request: request.url.endswith("hours=6")):
        await page.get_by_role("button", name="6 h").click()
    assert fake.work.usage[:2] == ["1", "24"]


async def test_a_session_is_archived_with_one_press_and_its_archive_read(
    fake: FakeMaster, open_page: OpenPage, watch: Watch, picture: Picture
) -> None:
    fake.work.archives = [archive("a1", "Rate limits of the API"), archive("a2", "Caching")]
    page = await open_page()
    await ask(page)
    await page.get_by_text("Full result.").wait_for()
    await page.get_by_role("button", name="Archive", exact=True).click()
    await page.get_by_role("button", name="Open the archive").click()
    assert "session_id" in fake.work.archived[0]
    await page.get_by_role("heading", name="Rate limits of the API").wait_for()
    text = page.locator(".answer-text")
    await expect(text.get_by_role("heading", name="Decisions")).to_be_visible()
    await expect(text.locator("img")).to_have_count(0)
    assert await page.evaluate("window.hacked") is None
    assert "title:" not in await text.inner_text()
    await picture(page, "archive-desktop-light")
    await page.get_by_role("link", name="Caching").click()
    await page.get_by_role("heading", name="Caching").wait_for()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await page.get_by_role("button", name="Delete for good").click()
    await expect(page.get_by_role("link", name="Rate limits of the API")).to_be_visible()
    assert [one["id"] for one in fake.work.archives] == ["a1"]


async def test_a_conversation_is_archived_as_a_whole(fake: FakeMaster, open_page: OpenPage) -> None:
    conversation = "6f7bd6f2-0d0e-4a5b-9df3-000000000001"
    fake.add("First turn", conversation_id=conversation, created_at="2026-11-21T09:00:00Z")
    second = fake.add("Second turn", conversation_id=conversation, created_at="2026-11-21T09:10:00Z")
    page = await open_page(path=f"#/sessions/{second.data['id']}")
    await page.get_by_role("button", name="Archive the conversation").click()
    await page.get_by_text("Archived").wait_for()
    assert fake.work.archived == [{"conversation_id": conversation}]
    await page.get_by_role("button", name="Archive the conversation").click()
    await page.get_by_text("It is archived already").wait_for()


async def test_archives_are_listed_and_searched_and_one_that_is_made_shows_how_far_it_is(
    fake: FakeMaster, open_page: OpenPage, picture: Picture
) -> None:
    fake.work.archives = [
        archive("a1", "Rate limits of the API"),
        archive("a2", "Caching of answers", "running"),
        archive("a3", "A poem", "failed", practice=True, error=CAUSE),
    ]
    page = await open_page(path="#/archives")
    await expect(page.locator(".archive-line")).to_have_count(3)
    await expect(page.get_by_text("Being structured 1 of 3")).to_be_visible()
    await picture(page, "archives-desktop-light")
    await page.get_by_label("Search archives").fill("poem")
    await expect(page.locator(".archive-line")).to_have_count(1)
    await page.get_by_role("link", name="A poem").click()
    await expect(page.get_by_role("alert")).to_contain_text("chunk 3 has 9,000 tokens")


async def test_typing_is_told_once_in_a_while_and_looking_is_not(
    fake: FakeMaster, open_page: OpenPage
) -> None:
    page = await open_page()
    await page.get_by_role("link", name="Background work").click()
    await page.locator(".gate-reason").wait_for()
    assert fake.work.activity == 0
    await page.get_by_role("link", name="New question").click()
    question = page.get_by_label("Your question")
    async with page.expect_response("**/api/background/register_activity"):
        await question.press_sequentially("Why is the sky blue?")
    await question.press_sequentially("And at night?")
    assert fake.work.activity == 1


async def test_pictures_of_background_work(fake: FakeMaster, open_page: OpenPage, picture: Picture) -> None:
    busy(fake)
    for name, dark, screen in (
        ("desktop-light", False, {}),
        ("desktop-dark", True, {}),
        ("phone-light", False, PHONE),
        ("phone-dark", True, PHONE),
    ):
        page = await open_page(path="#/background", dark=dark, **screen)
        await expect(page.locator("canvas")).to_have_count(4)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.evaluate(wide) == 0
        await picture(page, f"background-{name}")
