"""A13: an equal council may be answered from its earlier result, opt-in and visible."""

from __future__ import annotations

import pytest

from tests.service.master.rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASKED = {"question": "What is a mutex?", "cache": True}


async def test_the_same_council_is_given_again_for_nothing_and_says_so(cluster: Rig) -> None:
    first = (await cluster.client.post("/api/council/sessions?wait=true", json=ASKED)).json()
    calls = len(cluster.standin.calls())
    answer = await cluster.client.post("/api/council/sessions?wait=true", json=ASKED)
    again = answer.json()
    assert answer.status_code == 201
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["id"] != first["id"]
    assert again["synthesis"] == first["synthesis"]
    assert again["token_usage"]["total_tokens"] == 0
    assert len(cluster.standin.calls()) == calls
    assert (await cluster.client.get(f"/api/council/sessions/{again['id']}")).json() == again


async def test_without_asking_for_it_or_with_another_seat_nothing_is_given_again(cluster: Rig) -> None:
    await cluster.client.post("/api/council/sessions?wait=true", json=ASKED)
    for changed in ({"cache": False}, {"options": {"temperature": 0.1}}, {"question": "What is a mutex"}):
        body = {**ASKED, **changed}
        session = (await cluster.client.post("/api/council/sessions?wait=true", json=body)).json()
        assert session["cached"] is False
        assert session["token_usage"]["total_tokens"] > 0


async def test_a_result_from_the_cache_has_no_call_to_retry(cluster: Rig) -> None:
    await cluster.client.post("/api/council/sessions?wait=true", json=ASKED)
    again = (await cluster.client.post("/api/council/sessions?wait=true", json=ASKED)).json()
    refused = await cluster.client.post(f"/api/council/sessions/{again['id']}/agents/agent_1/retry")
    assert refused.status_code == 409
    assert "cache" in refused.json()["detail"]
