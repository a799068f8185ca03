"""More questions than the queue holds: who is let in is served, who is not hears when to come back."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx

from tests.service.chaos import fleet as fleets
from tests.service.chaos.judge import judge_fleet
from tests.service.master.rig import CHAIRMAN, assert_full, model

SEATS = ["m1", "m2", "m3"]
BODY = {"question": "Is there room?", "selected_agents": SEATS, "chairman": CHAIRMAN}
FLOOD = 30
ROOM = 6


async def test_a_flood_of_questions_is_refused_in_part_and_loses_nobody_who_was_let_in(
    tmp_path: Path,
) -> None:
    models = {"pc2": [model(name, token_ms=10) for name in (*SEATS, CHAIRMAN)]}
    env = {"COUNCIL_MAX_WAITING_CALLS": str(ROOM)}
    async with fleets.running(tmp_path, models, slots=1, env=env) as fleet:
        async with fleet.client() as client:

            async def ask() -> httpx.Response:
                return await client.post("/api/council/sessions", json=BODY)

            answers = await asyncio.gather(*[ask() for _ in range(FLOOD)])
            counted = Counter(answer.status_code for answer in answers)
            assert set(counted) == {201, 503}
            # Three seats each; one more council may come in while there is room for a single call.
            assert 1 <= counted[201] <= ROOM // len(SEATS) + 2
            for refused in (answer for answer in answers if answer.status_code == 503):
                assert refused.json()["code"] == "queue_full"
                assert 1 <= int(refused.headers["retry-after"]) <= 120
                assert "wait" in refused.json()["detail"]
            chat = {"model": "m1", "messages": [{"role": "user", "content": "And for me?"}]}
            chats = await asyncio.gather(
                *[client.post("/v1/chat/completions", json=chat) for _ in range(2 * ROOM)]
            )
            assert {one.status_code for one in chats} == {200, 503}
            for over in (one for one in chats if one.status_code == 503):
                assert over.json()["error"]["code"] == "queue_full"
                assert int(over.headers["retry-after"]) > 0
        held = {answer.json()["id"]: SEATS for answer in answers if answer.status_code == 201}
        positions = []
        async with asyncio.timeout(60):
            for session_id in held:
                events = await fleet.follow(session_id)
                positions += [one["position"] for one in events if one["type"] == "call.queued"]
        shown = {session_id: await fleet.get(session_id) for session_id in held}
        assert judge_fleet(fleet, held, shown) == {"full": len(held)}
        assert max(positions) > 1
        # The flood is over: there is room again.
        assert_full(await fleet.council(BODY))
