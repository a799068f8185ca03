"""Around the council: the list of sessions, deletion, the cluster, the key, themes, phones, keys."""

import asyncio

from playwright.async_api import expect

from tests.page.conftest import OpenPage, Picture, Watch
from tests.page.fake_master import FakeMaster
from tests.page.script import THINKING, Script
from tests.page.steps import QUESTION, ask


async def test_sessions_are_listed_searched_and_paged(fake: FakeMaster, open_page: OpenPage) -> None:
    for number in range(45):
        fake.add(f"Question number {number} about {'rust' if number % 9 == 0 else 'python'}")
    page = await open_page()
    entries = page.locator(".entry")
    await page.get_by_text("Question number 44").wait_for()
    assert await entries.count() == 30
    await page.get_by_role("button", name="Show more").click()
    await page.get_by_text("Question number 0 ").wait_for()
    assert await entries.count() == 45
    await page.get_by_label("Search sessions").fill("rust")
    await expect(entries).to_have_count(5)
    await page.get_by_role("link", name="Question number 9 ").click()
    await page.get_by_role("heading", name="Question number 9 about rust").wait_for()


async def test_a_deleted_session_can_be_taken_back(fake: FakeMaster, open_page: OpenPage) -> None:
    kept = fake.add("Keep me")
    page = await open_page()
    await page.get_by_role("button", name="Delete “Keep me”").click()
    await page.get_by_role("link", name="Keep me").wait_for(state="detached")
    await page.get_by_role("button", name="Undo").click()
    await page.get_by_role("link", name="Keep me").wait_for()
    assert not [one for one in fake.requests if one[0] == "DELETE"]
    assert kept.data["id"] in fake.sessions


async def test_a_deletion_is_sent_when_the_time_to_undo_is_over(
    fake: FakeMaster, open_page: OpenPage
) -> None:
    gone = fake.add("Lose me")
    page = await open_page(path=f"#/sessions/{gone.data['id']}")
    await page.clock.install()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await page.get_by_role("heading", name="Ask the council").wait_for()
    await page.clock.fast_forward(5500)
    assert gone.data["id"] in fake.sessions
    async with page.expect_request(lambda request: request.method == "DELETE"):
        await page.clock.fast_forward(1000)


async def test_closing_the_page_sends_a_waiting_deletion(fake: FakeMaster, open_page: OpenPage) -> None:
    gone = fake.add("Lose me too")
    page = await open_page()
    await page.get_by_role("button", name="Delete “Lose me too”").click()
    await page.close(run_before_unload=False)
    for _ in range(100):
        if gone.data["id"] not in fake.sessions:
            break
        await asyncio.sleep(0.05)
    assert gone.data["id"] not in fake.sessions


async def test_a_session_opens_by_its_address_and_an_unknown_one_says_so(
    fake: FakeMaster, open_page: OpenPage, watch: Watch
) -> None:
    watch.allowed = ["404"]
    page = await open_page(path="#/sessions/unknown")
    await page.get_by_role("alert").get_by_text("No such session").wait_for()
    session = fake.add("Opened by address")
    await page.goto(page.url.split("#")[0] + f"#/sessions/{session.data['id']}")
    await page.get_by_role("heading", name="Opened by address").wait_for()


async def test_a_reload_in_the_middle_resumes_with_the_text_so_far(
    fake: FakeMaster, open_page: OpenPage
) -> None:
    fake.script = Script(hold={"opinions": asyncio.Event()})
    page = await open_page()
    await ask(page)
    await page.get_by_text("It allows short bursts").wait_for()
    await page.reload()
    await page.get_by_text("It allows short bursts").wait_for()
    assert await page.locator(".seat .pill.running").count() == 3
    fake.script.hold["opinions"].set()
    await page.get_by_text("Full result.").wait_for()


async def test_the_cluster_shows_nodes_health_and_models(open_page: OpenPage, picture: Picture) -> None:
    page = await open_page(path="#/cluster")
    node = page.get_by_role("article", name="Node pc3")
    await node.get_by_text("degraded").wait_for()
    assert await page.get_by_text("3 of 3").is_visible()
    assert await page.get_by_role("rowheader", name="nomic-embed-text").is_visible()
    await picture(page, "cluster-desktop-light")


async def test_background_work_that_runs_elsewhere_is_told_until_its_engine_is_back(
    fake: FakeMaster, open_page: OpenPage, picture: Picture
) -> None:
    warning = "the background engine is down: its calls run on the main engine"
    fake.background = {
        "state": "down",
        "policy": "main_with_warning",
        "target": "main",
        "warning": warning,
        "model": {"name": "phi3.5", "note": None},
        "engines": [{"node": "pc2", "state": "down", "models": ["llama3.2:3b"]}],
    }
    page = await open_page()
    notice = page.get_by_role("status").filter(has_text=warning)
    await notice.wait_for()
    await expect(notice).to_contain_text("Down: pc2.")
    await picture(page, "background-engine-down")
    await notice.get_by_role("link", name="Cluster").click()
    await page.get_by_role("heading", name="Cluster", exact=True).wait_for()
    fake.background |= {"state": "connected", "target": "background", "warning": None}
    await page.get_by_role("button", name="Refresh").click()
    await notice.wait_for(state="detached")


async def test_a_master_that_wants_a_key_gets_it_from_a_form(
    fake: FakeMaster, open_page: OpenPage, watch: Watch
) -> None:
    watch.allowed = ["401"]
    fake.key = "secret"
    page = await open_page()
    form = page.get_by_role("heading", name="This council asks for a key")
    await form.wait_for()
    await page.get_by_label("Key", exact=True).fill("wrong")
    await page.get_by_role("button", name="Open", exact=True).click()
    await page.get_by_text("That is not the key").wait_for()
    await page.get_by_label("Key", exact=True).fill("secret")
    await page.get_by_role("button", name="Open", exact=True).click()
    await form.wait_for(state="detached")
    await page.get_by_role("heading", name="Seats", exact=True).wait_for()


async def test_a_cluster_without_a_model_says_how_to_get_one(fake: FakeMaster, open_page: OpenPage) -> None:
    fake.models = []
    page = await open_page()
    await page.get_by_text("No model is ready yet").wait_for()
    assert await page.get_by_text("council models get qwen2.5:0.5b").is_visible()


async def test_the_theme_follows_the_system_and_remembers_a_choice(open_page: OpenPage) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page = await open_page(dark=True)
    dark = await page.evaluate(ground)
    await page.locator(".sidebar").get_by_role("button", name="Use the light theme").click()
    light = await page.evaluate(ground)
    assert dark != light
    await page.reload()
    await page.locator(".sidebar").get_by_role("button", name="Use the dark theme").wait_for()
    assert await page.evaluate(ground) == light


async def test_on_a_phone_the_seats_are_tabs_and_nothing_is_cut_off(
    fake: FakeMaster, open_page: OpenPage, picture: Picture
) -> None:
    fake.script = Script(thinking={"agent_1": THINKING}, hold={"opinions": asyncio.Event()})
    page = await open_page(width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=2)
    await picture(page, "ask-phone-light")
    await ask(page)
    await page.get_by_text("It allows short bursts").wait_for()
    assert await page.get_by_role("tab").count() == 3
    await picture(page, "live-phone-light")
    await page.get_by_role("tab", name="2 qwen2.5:0.5b").tap()
    await page.get_by_text("what must be protected").wait_for()
    await page.keyboard.press("ArrowRight")
    await page.get_by_text("must see a constant").wait_for()
    fake.script.hold["opinions"].set()
    await page.get_by_text("Full result.").wait_for()
    await page.locator(".matrix .score").first.tap()
    await page.locator(".reasoning").get_by_text("The table is useful").wait_for()
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
    await picture(page, "done-phone-light")
    await page.get_by_role("button", name="Open the list of sessions").tap()
    await page.get_by_role("link", name=QUESTION).wait_for()
    await page.wait_for_timeout(250)
    await picture(page, "drawer-phone-light", whole=False)
    await page.keyboard.press("Escape")
    await page.locator(".sidebar.shown").wait_for(state="detached")


async def test_dark_pictures_of_desktop_and_phone(
    fake: FakeMaster, open_page: OpenPage, picture: Picture
) -> None:
    fake.script = Script(abstaining={"agent_3"}, failing={"agent_2"})
    page = await open_page(dark=True)
    await ask(page)
    await page.get_by_text("Degraded result.").wait_for()
    await picture(page, "degraded-desktop-dark")
    phone = await open_page(
        dark=True, width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    await picture(phone, "ask-phone-dark")
    await phone.goto(page.url)
    await phone.get_by_text("Degraded result.").wait_for()
    await picture(phone, "degraded-phone-dark")


async def test_the_keyboard_alone_is_enough(fake: FakeMaster, open_page: OpenPage) -> None:
    page = await open_page()
    await page.get_by_role("heading", name="Seats", exact=True).wait_for()
    await page.keyboard.type("Keyboard question")
    await page.keyboard.press("Control+Enter")
    await page.get_by_text("Full result.").wait_for()
    assert await page.locator("#spoken").inner_text() == "The council has finished."
    reached: set[str] = set()
    for _ in range(60):
        await page.keyboard.press("Tab")
        name = await page.evaluate(
            "(() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " return `${e.className}|${e.tagName}|${s.outlineStyle}`; })()"
        )
        reached.add(name)
        if name.startswith("score"):
            break
    assert any(name.startswith("score") for name in reached)
    assert not [
        name for name in reached if name.endswith("|none") and "TEXTAREA" not in name and "BODY" not in name
    ]
    await page.locator(".reasoning .byline").wait_for()
