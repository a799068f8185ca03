"""Tokens and latency: a session is the sum of its attempts, and the attempts are what the engine reported."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.service.master.accounts import Attempt, calls_of, is_canary, place_of, rows
from tests.service.master.rig import CHAIRMAN, SEATS, Rig, model
from tests.service.master.sockets import watch
from tests.standin import Fault
from tests.standin.model import Reply, default_reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

STAGES = {"stage1_opinions": "opinions", "stage2_review": "review", "stage3_synthesis": "synthesis"}
PARTS = ("queue_ms", "load_ms", "prompt_ms", "generate_ms", "network_ms")
TOTALS = {
    "total_prompt_tokens": "prompt_tokens",
    "total_completion_tokens": "completion_tokens",
    "total_tokens": "total_tokens",
}


def _attempts(rig: Rig, session: dict[str, Any]) -> list[Attempt]:
    """The committed rows of a session."""
    found = [row for row in rows(rig.folder / "master") if row["session_id"] == session["id"]]
    for row in found:
        row["total_tokens"] = row["prompt_tokens"] + row["completion_tokens"]
    return found


def _adds_up(rig: Rig, session: dict[str, Any]) -> list[Attempt]:
    """Check the sums of a session against its rows, and its rows against the engine; gives the rows."""
    attempts = _attempts(rig, session)
    usage = session["token_usage"]
    assert set(usage) == {*STAGES, *TOTALS}
    for total, part in TOTALS.items():
        assert usage[total] == sum(row[part] for row in attempts)
    for key, stage in STAGES.items():
        ours = [row for row in attempts if row["stage"] == stage]
        if not ours:
            assert usage[key] is None
            assert session["latency_stats"][key] is None
            continue
        assert set(usage[key]) == {"stage", "by_model", *TOTALS}
        assert usage[key]["stage"] == stage
        for total, part in TOTALS.items():
            assert usage[key][total] == sum(row[part] for row in ours)
        assert set(usage[key]["by_model"]) == {row["model"] for row in ours}
        for name, of_model in usage[key]["by_model"].items():
            assert set(of_model) == set(TOTALS.values())
            for part in TOTALS.values():
                assert of_model[part] == sum(row[part] for row in ours if row["model"] == name)
    reported = Counter(
        (*place_of(call), call.prompt_eval_count or 0, call.eval_count or 0)
        for call in rig.standin.calls(kind="chat", outcome="done")
        if not is_canary(call)
    )
    kept = Counter(
        (row["stage"], row["model"], row["prompt_tokens"], row["completion_tokens"])
        for row in attempts
        if row["outcome"] == "done"
    )
    assert kept == reported
    assert all(row["usage_unknown"] == 0 for row in attempts if row["outcome"] == "done")
    return attempts


# -- tokens -----------------------------------------------------------------------------------------------


async def test_a_plain_session_adds_up(cluster: Rig) -> None:
    session = await cluster.council()
    attempts = _adds_up(cluster, session)
    assert calls_of(attempts, "done").total() == len(attempts) == 7
    assert session["token_usage"]["total_tokens"] > 0


async def test_counts_that_differ_from_words_are_taken_as_the_engine_reports_them(cluster: Rig) -> None:
    cluster.standin.set_model(
        model("m1", reply=Reply("four words of text", prompt_eval_count=1234, eval_count=99))
    )
    session = await cluster.council(seats=["m1"])
    assert session["result"] == "single"
    _adds_up(cluster, session)
    usage = session["token_usage"]
    assert (usage["total_prompt_tokens"], usage["total_completion_tokens"]) == (1234, 99)
    assert usage["total_tokens"] == 1333
    assert usage["stage2_review"] is usage["stage3_synthesis"] is None


async def test_a_session_with_a_repaired_ballot_adds_up(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("prose", model="m2", has_format=True))
    session = await cluster.council()
    attempts = _adds_up(cluster, session)
    assert calls_of(attempts, "done")["review", "m2"] == 2
    assert session["result"] == "full"


async def test_a_session_with_a_fallback_chairman_adds_up(cluster: Rig) -> None:
    cluster.standin.set_model(model(CHAIRMAN, reply=Reply("")))
    session = await cluster.council(chairman_fallbacks=["deputy"])
    attempts = _adds_up(cluster, session)
    assert session["synthesis"]["kind"] == "fallback_chairman"
    stage = session["token_usage"]["stage3_synthesis"]
    assert set(stage["by_model"]) == {CHAIRMAN, "deputy"}
    assert stage["by_model"][CHAIRMAN]["prompt_tokens"] > 0
    assert calls_of(attempts, "done")["synthesis", CHAIRMAN] == 1


async def test_what_a_cut_off_attempt_wrote_counts_and_is_marked_as_uncertain(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("cut", model="m3", after_tokens=4, has_format=False))
    session = await cluster.council()
    attempts = _adds_up(cluster, session)
    [cut] = [row for row in attempts if row["outcome"] == "restarted"]
    assert (cut["stage"], cut["model"], cut["usage_unknown"]) == ("opinions", "m3", 1)
    # What came in one read counts as one token, so a cut attempt counts at most what the engine had written.
    assert 1 <= cut["completion_tokens"] <= 4
    again = [row for row in attempts if (row["stage"], row["agent_id"]) == ("opinions", "agent_3")]
    shown = session["token_usage"]["stage1_opinions"]["by_model"]["m3"]
    assert shown["completion_tokens"] == sum(row["completion_tokens"] for row in again)
    assert [row["attempt"] for row in again] == [1, 2]


async def test_all_runs_of_a_retried_session_add_up(cluster: Rig) -> None:
    first = await cluster.council()
    before = first["token_usage"]["total_tokens"]
    address = f"/api/council/sessions/{first['id']}/agents/agent_2/retry"
    assert (await cluster.client.post(address)).status_code == 202
    session = await cluster.ended(first["id"])
    attempts = _adds_up(cluster, session)
    assert session["run"] == 2
    assert session["token_usage"]["total_tokens"] > before
    assert {row["run"] for row in attempts} == {1, 2}
    runs = {
        run: max(row["ended_at"] for row in attempts if (row["run"], row["stage"]) == (run, "opinions"))
        - min(row["started_at"] for row in attempts if (row["run"], row["stage"]) == (run, "opinions"))
        for run in (1, 2)
    }
    stats = session["latency_stats"]["stage1_opinions"]
    assert stats["duration_ms"] == pytest.approx(sum(runs.values()) * 1000, abs=0.01)


async def test_a_cancelled_session_adds_up_with_what_was_written_until_then(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("endless", model="m2"))
    opened = await cluster.open()
    # The others have ended, or one might end in the engine just as the master cancels it.
    ended: set[str] = set()

    def alone(event: dict[str, Any]) -> bool:
        if event["type"] == "call.completed":
            ended.add(event["agent_id"])
        return ended == {"agent_1", "agent_3"}

    await cluster.reach(opened["id"], alone)
    await cluster.reach(
        opened["id"], lambda event: event["type"] == "call.delta" and event["agent_id"] == "agent_2"
    )
    await cluster.client.post(f"/api/council/sessions/{opened['id']}/cancel")
    await cluster.standin.until(lambda s: all(one.outcome != "running" for one in s.log), 20)
    session = await cluster.get(opened["id"])
    attempts = _adds_up(cluster, session)
    [stopped] = [row for row in attempts if row["agent_id"] == "agent_2"]
    assert (stopped["outcome"], stopped["usage_unknown"]) == ("cancelled", 1)
    assert stopped["completion_tokens"] > 0


async def test_the_events_tell_the_sums_that_the_session_shows(cluster: Rig) -> None:
    opened = await cluster.open()
    events, _ = await watch(cluster.master.url, opened["id"])
    session = await cluster.get(opened["id"])
    _adds_up(cluster, session)
    for key, stage in STAGES.items():
        [told] = [one for one in events if one["type"] == "stage.completed" and one["stage"] == stage]
        assert told["token_usage"] == session["token_usage"][key]
        assert told["latency"] == session["latency_stats"][key]
        calls = [one for one in events if one["type"] == "call.completed" and one["stage"] == stage]
        for part, total in (("prompt_tokens", "total_prompt_tokens"), ("total_tokens", "total_tokens")):
            assert sum(one["token_usage"][part] for one in calls) == told["token_usage"][total]


# -- latency ----------------------------------------------------------------------------------------------


def _latencies(session: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{key} {agent}", latency)
        for key in STAGES
        if session["latency_stats"][key]
        for agent, latency in session["latency_stats"][key]["by_agent"].items()
    ]


async def test_latency_stats_have_the_shape_of_the_contract_and_their_parts_fit(cluster: Rig) -> None:
    session = await cluster.council()
    stats = session["latency_stats"]
    assert set(stats) == {*STAGES, "total_duration_ms"}
    for key, stage in STAGES.items():
        assert set(stats[key]) == {"stage", "duration_ms", "by_agent"}
        assert stats[key]["stage"] == stage
        agents = ["chairman"] if stage == "synthesis" else ["agent_1", "agent_2", "agent_3"]
        assert list(stats[key]["by_agent"]) == agents
        # The rows' times are wall-clock times of the commits around the call, the parts are measured in it.
        longest = max(one["total_ms"] for one in stats[key]["by_agent"].values())
        assert stats[key]["duration_ms"] >= longest - 1.0
    total = sum(stats[key]["duration_ms"] for key in STAGES)
    assert stats["total_duration_ms"] == pytest.approx(total, abs=0.01)
    for name, latency in _latencies(session):
        assert set(latency) == {"node", *PARTS, "first_token_ms", "total_ms", "tokens_per_second"}, name
        assert latency["node"] == "pc2"
        assert all(latency[part] >= 0 for part in PARTS), name
        assert sum(latency[part] for part in PARTS) <= latency["total_ms"] + 1.0, name
        assert 0 < latency["first_token_ms"] <= latency["total_ms"], name


async def test_agents_beyond_the_slots_have_queued(cluster: Rig) -> None:
    cluster.standin.set_model(model("m1", duration_ms=900, reply=lambda r: default_reply(model("m1"), r)))
    session = await cluster.council(seats=["m1"] * 10)
    queued = sorted(
        one["queue_ms"] for one in session["latency_stats"]["stage1_opinions"]["by_agent"].values()
    )
    assert queued[-3] < 700 <= queued[-2]
    for name, latency in _latencies(session):
        assert latency["total_ms"] >= latency["queue_ms"] + latency["generate_ms"] - 1.0, name
    duration = session["latency_stats"]["stage1_opinions"]["duration_ms"]
    assert duration >= 1800


async def test_loading_reading_and_writing_are_told_apart(cluster: Rig) -> None:
    cluster.standin.unload("m5")
    cluster.standin.set_model(
        model("m5", resident=False, load_ms=300, prompt_tokens_per_s=500, duration_ms=200)
    )
    session = await cluster.council(seats=["m5", "m1"])
    stats = session["latency_stats"]
    cold = stats["stage1_opinions"]["by_agent"]["agent_1"]
    warm = stats["stage2_review"]["by_agent"]["agent_1"]
    asked, reviewed = (
        session["token_usage"][key]["by_model"]["m5"]["prompt_tokens"]
        for key in ("stage1_opinions", "stage2_review")
    )
    assert cold["load_ms"] >= 295
    assert warm["load_ms"] < 100
    assert cold["prompt_ms"] == pytest.approx(asked / 500 * 1000, abs=60)
    assert warm["prompt_ms"] == pytest.approx(reviewed / 500 * 1000, abs=60)
    assert cold["generate_ms"] == pytest.approx(200, abs=80)
    assert cold["first_token_ms"] >= cold["load_ms"] + cold["prompt_ms"]
    written = session["token_usage"]["stage1_opinions"]["by_model"]["m5"]["completion_tokens"]
    assert cold["tokens_per_second"] == pytest.approx(written / cold["generate_ms"] * 1000, rel=0.05)


async def test_the_seats_of_one_model_are_summed_by_model_and_told_apart_by_agent(cluster: Rig) -> None:
    session = await cluster.council(seats=["m1", "m1"])
    attempts = _adds_up(cluster, session)
    assert set(session["token_usage"]["stage1_opinions"]["by_model"]) == {"m1"}
    assert set(session["latency_stats"]["stage1_opinions"]["by_agent"]) == {"agent_1", "agent_2"}
    assert calls_of(attempts, "done")["opinions", "m1"] == 2


async def test_a_quorum_that_was_missed_still_shows_what_was_spent(cluster: Rig) -> None:
    cluster.standin.set_model(model("m1", reply=Reply("")))
    cluster.standin.set_model(model("m2", reply=Reply("")))
    session = await cluster.council(seats=list(SEATS), quorum=2)
    assert (session["state"], session["error"]["code"]) == ("failed", "quorum_not_met")
    _adds_up(cluster, session)
    assert session["token_usage"]["total_prompt_tokens"] > 0
