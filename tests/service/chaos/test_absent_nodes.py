"""A question for models whose node is down this moment is refused with the truth, and answered afterwards."""

from __future__ import annotations

from pathlib import Path

from tests.service.chaos import fleet as fleets
from tests.service.master.rig import CHAIRMAN, assert_full, model


async def test_a_model_on_a_node_that_is_down_is_not_called_unknown(tmp_path: Path) -> None:
    models = {"pc2": [model("m1"), model(CHAIRMAN)]}
    body = {"question": "Where?", "selected_agents": ["m1", "m1"], "chairman": CHAIRMAN}
    async with fleets.running(tmp_path, models) as fleet:
        await fleet.nodes["pc2"].kill()
        await fleet.until("pc2", "unreachable")
        async with fleet.client() as client:
            refused = await client.post("/api/council/sessions", json=body)
            problem = refused.json()
            assert (refused.status_code, problem["code"]) == (409, "model_unavailable")
            assert (problem["node"], problem["model"]) == ("pc2", "m1")
            assert "m1 is on pc2" in problem["detail"]
            assert int(refused.headers["retry-after"]) > 0
            unknown = await client.post("/api/council/sessions", json={**body, "chairman": "nobody"})
            assert unknown.json()["detail"].startswith("no node has nobody")
            assert "retry-after" not in unknown.headers
        await fleet.settle()
        assert_full(await fleet.council(body))
