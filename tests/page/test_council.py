"""Asking and watching: from the question to the final answer."""

import asyncio

import pytest

from tests.page.conftest import OpenPage, Picture, Watch
from tests.page.fake_master import FakeMaster, problem
from tests.page.script import THINKING, Script
from tests.page.steps import ask


async def test_a_question_goes_from_live_panels_to_the_final_answer(
    fake: FakeMaster, open_page: OpenPage, picture: Picture
) -> None:
    fake.script = Script(
        thinking={"agent_1": THINKING},
        pause_s=0.01,
        hold={"opinions": asyncio.Event(), "synthesis": asyncio.Event()},
    )
    page = await open_page()
    await page.get_by_role("heading", name="Seats", exact=True).wait_for()
    await picture(page, "ask-desktop-light")
    await ask(page)
    first = page.get_by_role("region", name="Seat 1: llama3.2:1b", exact=True)
    await first.get_by_text("It allows short bursts").wait_for()
    assert await page.locator(".seat .pill.running").count() == 3
    await first.get_by_text("Thinking").click()
    await first.get_by_text(THINKING).wait_for()
    await picture(page, "live-desktop-light")
    fake.script.hold["opinions"].set()
    final = page.get_by_role("region", name="Final answer")
    await final.get_by_text("The chairman is writing").wait_for()
    fake.script.hold["synthesis"].set()
    await page.get_by_text("Full result.").wait_for()
    await final.get_by_text("Synthesis by the chairman").wait_for()
    await final.get_by_text("Measure for a week").wait_for()
    assert "token bucket" in await page.get_by_role("region", name="Top-ranked answer").first.inner_text()
    assert await page.locator(".hljs-keyword").count() > 0
    await picture(page, "done-desktop-light")
    body = fake.bodies[0]
    assert body["selected_agents"] == ["llama3.2:1b", "qwen2.5:0.5b", "gemma2:2b"]
    assert body["conversation_id"] is None


async def test_seats_repeat_models_and_carry_personas(fake: FakeMaster, open_page: OpenPage) -> None:
    page = await open_page()
    await page.get_by_role("button", name="Add a seat with llama3.2:1b").click()
    await page.get_by_label("Persona of seat 4").fill("sceptic")
    await page.get_by_label("Chairman", exact=True).select_option("phi3.5")
    await ask(page)
    await page.get_by_text("Full result.").wait_for()
    assert fake.bodies[0]["selected_agents"][3] == {"model": "llama3.2:1b", "persona": "sceptic"}
    assert fake.bodies[0]["chairman"] == "phi3.5"


async def test_no_more_than_sixteen_seats_can_be_added(open_page: OpenPage) -> None:
    page = await open_page()
    add = page.get_by_role("button", name="Add a seat with llama3.2:1b")
    for _ in range(13):
        await add.click()
    assert await add.is_disabled()
    assert await page.locator(".seat-rows li").count() == 16


@pytest.mark.parametrize("drops", [[3, 9, 10, 31, 60], list(range(2, 40))])
async def test_dropped_connections_lose_and_repeat_nothing(
    fake: FakeMaster, open_page: OpenPage, drops: list[int]
) -> None:
    numbers = " ".join(f"w{number}" for number in range(160))
    fake.script = Script(answers=[numbers], final=numbers, chunk=7, drop_at=drops)
    page = await open_page()
    await page.get_by_role("button", name="Remove seat 3").click()
    await page.evaluate("Math.random = () => 0")
    await ask(page)
    await page.get_by_text("Full result.").wait_for()
    for text in await page.locator(".seat .answer-text").all_inner_texts():
        assert text.split() == numbers.split()
    assert (await page.locator(".final .answer-text").inner_text()).split() == numbers.split()
    assert len(fake.sockets) > len(drops)


async def test_a_socket_beyond_the_head_is_caught_by_a_snapshot(
    fake: FakeMaster, open_page: OpenPage
) -> None:
    fake.script = Script(hold={"opinions": asyncio.Event()}, drop_at=[12])
    page = await open_page()
    await page.evaluate("Math.random = () => 0.9")
    await ask(page)
    session = next(iter(fake.sessions.values()))
    while session.drops:  # noqa: ASYNC110 the fake has no event for it
        await asyncio.sleep(0.01)
    real, session.events[:] = list(session.events), []
    session.events.extend({**event, "seq": number} for number, event in enumerate(real[:6], 1))
    await page.wait_for_selector(".seat")
    fake.script.hold["opinions"].set()
    await page.get_by_text("Full result.").wait_for()


async def test_a_failed_seat_is_named_and_can_be_retried(
    fake: FakeMaster, open_page: OpenPage, picture: Picture
) -> None:
    fake.script = Script(failing={"agent_2"}, abstaining={"agent_3"}, contested=True)
    page = await open_page()
    await ask(page)
    await page.get_by_text("Degraded result.").wait_for()
    assert await page.get_by_text("Missing: seat 2 (qwen2.5:0.5b).").is_visible()
    assert await page.get_by_text("sent nothing for 20 s").is_visible()
    assert await page.get_by_text("Seat 3 abstained: its ballot was not valid JSON twice.").is_visible()
    assert await page.get_by_text("Contested:").is_visible()
    await picture(page, "degraded-desktop-light")
    await page.get_by_role("button", name="Retry seat 2").click()
    await page.get_by_text("Full result.").wait_for()
    await (
        page.get_by_role("region", name="Seat 2: qwen2.5:0.5b", exact=True)
        .get_by_text("what must be protected")
        .wait_for()
    )
    assert await page.get_by_text("run 2").is_visible()


async def test_ballots_tell_their_reasoning_on_focus(open_page: OpenPage, picture: Picture) -> None:
    page = await open_page()
    await ask(page)
    await page.get_by_text("Full result.").wait_for()
    score = page.locator(".matrix .score").first
    await score.focus()
    await page.locator(".reasoning").get_by_text("The table is useful").wait_for()
    await page.get_by_role("heading", name="Tokens and latency").click()
    await page.get_by_role("region", name="Latency").wait_for()
    assert await page.get_by_role("columnheader", name="First token").is_visible()
    await picture(page, "figures-desktop-light")


async def test_practice_fallback_and_trimming_are_said(
    fake: FakeMaster, open_page: OpenPage, picture: Picture
) -> None:
    fake.script = Script(
        practice=True,
        kind="top_ranked",
        warnings=["The background engine is down."],
        trimmed=["review of agent_1: 900 of 4,100 tokens"],
    )
    page = await open_page(dark=True)
    await ask(page)
    await page.get_by_text("Practice models: the text is meaningless.").wait_for()
    await page.get_by_text("best-ranked opinion, word for word").wait_for()
    assert await page.get_by_text("The background engine is down.").count() == 1
    assert await page.get_by_text("900 of 4,100 tokens").is_visible()
    assert await page.get_by_text("Synthesis by").count() == 0
    await picture(page, "practice-desktop-dark")


async def test_a_restarted_call_begins_anew(fake: FakeMaster, open_page: OpenPage) -> None:
    fake.script = Script(restarting={"agent_1"})
    page = await open_page()
    await ask(page)
    await page.get_by_text("Full result.").wait_for()
    seat = page.get_by_role("region", name="Seat 1: llama3.2:1b", exact=True)
    assert (await seat.inner_text()).count("token bucket") == 1
    assert await seat.get_by_text("Began anew on pc3").is_visible()


async def test_stopping_keeps_what_was_said(fake: FakeMaster, open_page: OpenPage) -> None:
    fake.script = Script(hold={"opinions": asyncio.Event()})
    page = await open_page()
    await ask(page)
    await page.get_by_text("It allows short bursts").wait_for()
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_text("Stopped.", exact=True).wait_for()
    assert await page.get_by_text("It allows short bursts").is_visible()
    assert await page.locator(".seat .pill.cancelled").count() == 3
    assert await page.get_by_role("button", name="Retry seat").count() == 3
    assert await page.locator(".steps .stopped").inner_text() == "Opinions\nstopped"


async def test_a_council_without_any_answer_says_why_it_failed(fake: FakeMaster, open_page: OpenPage) -> None:
    fake.script = Script(failing={"agent_1", "agent_2", "agent_3"})
    page = await open_page()
    await ask(page)
    alert = page.get_by_role("alert")
    await alert.get_by_text("No seat answered.").wait_for()
    assert await alert.get_by_text("quorum_not_met").is_visible()
    assert await page.get_by_role("button", name="Retry seat").count() == 3
    assert await page.get_by_role("heading", name="Final answer").count() == 0


async def test_a_refusal_is_told_in_the_masters_words(
    fake: FakeMaster, open_page: OpenPage, watch: Watch
) -> None:
    watch.allowed = ["409"]
    fake.refusal = problem(
        409, "model_unavailable", "A model is not available", "No node has llama3.2:1b.", model="llama3.2:1b"
    )
    page = await open_page()
    await page.get_by_label("Your question").fill("Why?")
    await page.get_by_role("button", name="Ask the council").click()
    alert = page.get_by_role("alert")
    await alert.get_by_text("No node has llama3.2:1b.").wait_for()
    assert await alert.get_by_text("model_unavailable").is_visible()
    assert await page.get_by_label("Your question").input_value() == "Why?"


async def test_a_follow_up_stays_in_the_conversation(fake: FakeMaster, open_page: OpenPage) -> None:
    page = await open_page()
    await ask(page, "First question")
    await page.get_by_text("Full result.").wait_for()
    await page.get_by_label("Follow-up question").fill("And with two gateways?")
    await page.keyboard.press("Control+Enter")
    await page.get_by_role("heading", name="And with two gateways?").wait_for()
    assert fake.bodies[1]["conversation_id"] == next(iter(fake.sessions.values())).data["conversation_id"]
    await page.get_by_role("navigation", name="Earlier").get_by_text("First question").wait_for()


async def test_a_single_seat_is_called_a_single_voice(open_page: OpenPage) -> None:
    page = await open_page()
    await page.get_by_role("button", name="Remove seat 3").click()
    await page.get_by_role("button", name="Remove seat 2").click()
    await ask(page)
    await page.get_by_text("Single voice.").wait_for()
    assert await page.get_by_text("Synthesis by").count() == 0
