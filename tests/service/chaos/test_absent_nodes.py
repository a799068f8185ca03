"""Nodes that are down, or do not know their master any more, when a question comes."""

from __future__ import annotations

from pathlib import Path

from common.security import new_key
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


async def test_calls_to_a_node_with_another_key_run_elsewhere(tmp_path: Path) -> None:
    models = {name: [model("m1"), model("m2"), model(CHAIRMAN)] for name in ("pc2", "pc3")}
    body = {"question": "Who are you?", "selected_agents": ["m1", "m2"] * 3, "chairman": CHAIRMAN}
    # So long a heartbeat that only the calls themselves meet the refusal.
    async with fleets.prepared(tmp_path, models, env={"COUNCIL_HEARTBEAT_S": "60"}) as fleet:
        strange = fleet.nodes["pc2"]
        await strange.stop()
        known = new_key()
        strange.env = {"COUNCIL_NODE_KEY": known}
        await strange.start()
        fleet.addresses = {"pc2": f"{strange.url}#{known}"}
        await fleet.start_master()
        await fleet.settle()
        await strange.stop()
        strange.env = {"COUNCIL_NODE_KEY": new_key()}
        await strange.start()
        session = await fleet.council(body)
        assert_full(session)
        assert {agent["node"] for agent in session["agents"]} == {"pc3"}
        refused = [row for row in fleet.rows("attempts") if row["outcome"] == "restarted"]
        assert refused
        assert all("key" in row["error"] and row["node"] == "pc2" for row in refused)
