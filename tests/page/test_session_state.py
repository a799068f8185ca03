"""The page's session state, driven without a document: events in, view out."""

import random
from typing import Any

from tests.page.conftest import OpenPage
from tests.page.fake_council import FakeSession
from tests.page.script import THINKING, Script

FOLD = """async ([session, streams]) => {
    const { applyEvent, blankView } = await import("/assets/src/session-state.js");
    return streams.map((events) => events.reduce(applyEvent, blankView(session)));
}"""


async def _played(script: Script) -> FakeSession:
    session = FakeSession({"question": "Why?"}, script, ["a", "b", "a"])
    await session.run()
    return session


async def test_repeated_and_overlapping_events_change_nothing(open_page: OpenPage) -> None:
    session = await _played(Script(thinking={"agent_2": THINKING}, chunk=11))
    order = random.Random(7)
    overlapping: list[dict[str, Any]] = []
    for event in session.events:
        overlapping.append(event)
        overlapping.extend(order.sample(overlapping, k=min(2, len(overlapping))))
    page = await open_page()
    once, again = await page.evaluate(FOLD, [session.data, [session.events, overlapping]])
    assert once == again
    assert once["seq"] == len(session.events)
    assert once["calls"]["opinions"]["agent_2"]["thinking"] == THINKING
    assert once["session"]["state"] == "completed"


async def test_a_seat_that_waits_says_its_place_and_when_it_starts(open_page: OpenPage) -> None:
    page = await open_page()
    told = await page.evaluate(
        """async () => {
            const { applyEvent, blankView } = await import("/assets/src/session-state.js");
            const { queuePlace, queueWait } = await import("/assets/src/views/parts.js");
            const where = { type: "call.queued", stage: "opinions", agent_id: "agent_1" };
            let view = blankView({ id: "1", agents: [{ agent_id: "agent_1", model: "m" }] });
            const told = [[queuePlace(undefined), queueWait(undefined)]];
            const third = { position: 3, estimate_s: 150.2 };
            for (const guess of [third, { position: 2, estimate_s: 40.6 }, { position: 1 }]) {
                view = applyEvent(view, { ...where, seq: told.length, ...guess });
                const call = view.calls.opinions.agent_1;
                told.push([queuePlace(call), queueWait(call)]);
            }
            return told;
        }"""
    )
    assert told == [
        ["", ""],
        ["· 3", "starts in about 2.5 min"],
        ["· 2", "starts in about 41 s"],
        ["· 1", ""],
    ]


async def test_a_gap_is_reported_and_nothing_behind_it_is_taken(open_page: OpenPage) -> None:
    session = await _played(Script())
    page = await open_page()
    holed = session.events[:10] + session.events[11:]
    (view,) = await page.evaluate(FOLD, [session.data, [holed]])
    assert view["gap"] is True
    assert view["seq"] == 10


async def test_a_snapshot_and_the_events_before_it_tell_the_same_texts(open_page: OpenPage) -> None:
    session = await _played(Script())
    page = await open_page()
    snapshot = session.snapshot()
    events, jump = await page.evaluate(FOLD, [session.data, [session.events, [snapshot]]])
    for stage in ("opinions", "synthesis"):
        for agent, call in events["calls"][stage].items():
            assert jump["calls"][stage][agent]["answer"] == call["answer"]
            assert jump["calls"][stage][agent]["state"] == "done"
    assert jump["seq"] == events["seq"]


async def test_the_text_of_a_restarted_call_begins_anew(open_page: OpenPage) -> None:
    session = await _played(Script(restarting={"agent_1"}))
    page = await open_page()
    (view,) = await page.evaluate(FOLD, [session.data, [session.events]])
    call = view["calls"]["opinions"]["agent_1"]
    assert call["answer"] == session.data["agents"][0]["opinion"]
    assert call["restarts"][0]["to_node"] == "pc3"


async def test_a_retry_keeps_the_other_seats(open_page: OpenPage) -> None:
    session = await _played(Script(failing={"agent_2"}))
    first = list(session.events)
    await session.retry("agent_2")
    page = await open_page()
    failed, again = await page.evaluate(FOLD, [session.data, [first, session.events]])
    assert failed["calls"]["opinions"]["agent_2"]["state"] == "failed"
    assert again["calls"]["opinions"]["agent_2"]["state"] == "done"
    assert again["calls"]["opinions"]["agent_1"] == failed["calls"]["opinions"]["agent_1"]
    assert again["session"]["run"] == 2


async def test_events_of_an_unknown_type_only_move_the_number(open_page: OpenPage) -> None:
    session = FakeSession({"question": "Why?"}, Script(), ["a"])
    page = await open_page()
    (view,) = await page.evaluate(FOLD, [session.data, [[{"seq": 1, "type": "later.invention"}]]])
    assert view["seq"] == 1
    assert view["gap"] is False
