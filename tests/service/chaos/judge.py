"""What a session owes its reader after any storm, held against the rows, the events and the engines."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from tests.service.chaos.fleet import Fleet
from tests.service.master.rig import assert_honest

Row = dict[str, Any]
TOTALS = {"total_prompt_tokens": "prompt_tokens", "total_completion_tokens": "completion_tokens"}


def judge_session(session: Row, seats: list[str], rows: list[Row]) -> None:
    """One session that ended, against the attempts that were committed for it."""
    assert_honest(session)
    agents = session["agents"]
    assert [one["model"] for one in agents] == seats
    assert [one["agent_id"] for one in agents] == [f"agent_{number + 1}" for number in range(len(seats))]
    reviewers = [one["reviewer"] for one in session["ballots"]]
    assert len(reviewers) == len(set(reviewers))
    ranked = [one["agent_id"] for one in session["ranking"]]
    assert len(ranked) == len(set(ranked))

    assert {row["outcome"] for row in rows} <= {"done", "failed", "restarted", "interrupted"}
    done = Counter((row["run"], row["stage"], row["agent_id"]) for row in rows if row["outcome"] == "done")
    for (run, stage, agent_id), count in done.items():
        # A ballot that could not be read is asked for once more; nothing else runs twice.
        assert count == 1, (session["id"], run, stage, agent_id, count)
    for total, part in TOTALS.items():
        assert session["token_usage"][total] == sum(row[part] for row in rows)
    assert all(row["total_ms"] >= 0 and row["queue_ms"] >= 0 and row["network_ms"] >= 0 for row in rows)

    answered = {row["agent_id"] for row in rows if row["outcome"] == "done" and row["stage"] == "opinions"}
    assert {one["agent_id"] for one in agents if one["opinion"] is not None} == answered
    if session["result"] == "full":
        voted = {row["agent_id"] for row in rows if row["outcome"] == "done" and row["stage"] == "review"}
        assert answered == voted == {one["agent_id"] for one in agents}
        assert session["synthesis"]["kind"] in ("chairman", "fallback_chairman")
    elif session["state"] == "completed":
        lacks_voice = bool(session["missing_agents"])
        lacks_vote = any(one["review_state"] != "done" for one in agents)
        lacks_chair = session["synthesis"] is None or session["synthesis"]["kind"] == "top_ranked"
        assert lacks_voice or lacks_vote or lacks_chair, session
    # Of two voices one is lost where its node dies in mid-answer, and then the next node that begins it anew.
    if session["result"] == "single" and len(agents) > 1:
        for agent_id in session["missing_agents"]:
            tried = [row for row in rows if (row["stage"], row["agent_id"]) == ("opinions", agent_id)]
            outcomes = [row["outcome"] for row in sorted(tried, key=lambda row: row["attempt"])]
            assert outcomes[-2:] == ["restarted", "failed"], (session["id"], tried)
    if session["synthesis"] is not None and session["synthesis"]["kind"] == "fallback_chairman":
        assert any("failed as chairman" in one for one in session["warnings"])


def assert_all_served(ended: Counter[str], sessions: int) -> None:
    """Every session came to a result, and single voices are the exception that two deaths in a row make."""
    assert ended["full"] + ended["degraded"] + ended["single"] == sessions, ended
    assert ended["single"] <= max(sessions // 20, 1), ended


def judge_fleet(fleet: Fleet, sessions: dict[str, list[str]], shown: dict[str, Row]) -> Counter[str]:
    """All sessions (id → seats) against the whole database and every engine; how many ended how."""
    stored = {row["id"]: row for row in fleet.rows("sessions")}
    assert set(stored) == set(sessions)
    assert all(row["over"] for row in stored.values())
    attempts: dict[str, list[Row]] = defaultdict(list)
    for row in fleet.rows("attempts"):
        attempts[row["session_id"]].append(row)
    for session_id, seats in sessions.items():
        judge_session(shown[session_id], seats, attempts[session_id])
        assert stored[session_id]["state"] == shown[session_id]["state"]
        assert stored[session_id]["result"] == shown[session_id]["result"]
    for node in fleet.nodes.values():
        for model, most in node.engine.counters.peak_in_flight.items():
            assert most <= node.slots, f"{most} calls of {model} at once on {node.name}"
    return Counter(one["result"] or one["state"] for one in shown.values())
