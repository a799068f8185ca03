"""What is shown of a session: the contract of the API to the letter, and a readable document."""

from __future__ import annotations

import json
from typing import Any

import pytest

from master.council.export import markdown
from master.council.session import Session
from master.council.view import CouncilSession, view
from tests.unit.council.table import THREE, Table, ballot, failed, good, plan_of, scripted

# Names and order as the documentation of the API lists them.
SESSION_FIELDS = [
    *["id", "conversation_id", "run", "question", "state", "result", "missing_agents", "practice", "cached"],
    *["trimmed", "warnings", "error", "chairman", "agents", "ballots", "ranking", "agreement", "contested"],
    *["synthesis", "top_answer", "token_usage", "latency_stats", "created_at", "completed_at"],
]
USAGE_FIELDS = ["prompt_tokens", "completion_tokens", "total_tokens"]
LATENCY_FIELDS = [
    *["node", "queue_ms", "load_ms", "prompt_ms", "generate_ms", "network_ms", "first_token_ms"],
    *["total_ms", "tokens_per_second"],
]


def shown(session: Session, **options: Any) -> dict[str, Any]:
    return view(session, **options).model_dump(mode="json")


def test_the_fields_are_those_of_the_contract_and_nothing_else() -> None:
    session = shown(Table(plan_of(*THREE, created_at=1.0)).run().session)
    assert list(session) == SESSION_FIELDS
    assert list(session["agents"][0]) == [
        *["agent_id", "model", "persona", "node", "state", "opinion", "review_state", "error"]
    ]
    assert list(session["ballots"][0]) == ["reviewer", "rankings", "abstained", "reason"]
    assert list(session["ballots"][0]["rankings"][0]) == ["agent_id", "score", "reasoning"]
    assert list(session["ranking"][0]) == ["agent_id", "rank", "borda", "mean_score", "votes"]
    assert list(session["synthesis"]) == ["text", "model", "node", "kind"]
    usage, latency = session["token_usage"], session["latency_stats"]
    assert list(usage) == [
        *["stage1_opinions", "stage2_review", "stage3_synthesis"],
        *["total_prompt_tokens", "total_completion_tokens", "total_tokens"],
    ]
    assert list(usage["stage1_opinions"]["by_model"]["llama3.2:1b"]) == USAGE_FIELDS
    assert list(latency["stage3_synthesis"]["by_agent"]["chairman"]) == LATENCY_FIELDS
    assert session["created_at"] == "1970-01-01T00:00:01Z"


def test_a_shown_session_can_be_stored_and_read_back() -> None:
    session = view(Table(plan_of(*THREE), scripted(review_agent_1="prose")).run().session)
    assert CouncilSession.model_validate(json.loads(session.model_dump_json())) == session


def test_stages_that_did_not_run_are_null() -> None:
    session = shown(Table(plan_of("a")).run().session)
    assert session["token_usage"]["stage2_review"] is None
    assert session["latency_stats"]["stage3_synthesis"] is None
    assert (session["result"], session["synthesis"], session["top_answer"]) == ("single", None, "agent_1")


def test_a_running_session_shows_who_waits_and_who_runs() -> None:
    table = Table(plan_of("a", "b", "c"))
    assert shown(table.session)["state"] == "queued"
    table.session.start()
    first, second, _ = table.session.due()
    table.begin(first)
    table.begin(second)
    table.session.note("opinions", "agent_1", "queued")
    table.session.note("opinions", "agent_2", "running", "pc7")
    table.session.note("opinions", "agent_3", "running", "pc8")
    agents = shown(table.session)["agents"]
    assert [(one["state"], one["node"]) for one in agents] == [
        ("queued", None),
        ("running", "pc7"),
        ("waiting", None),
    ]
    assert {one["review_state"] for one in agents} == {"waiting"}
    assert shown(table.session, completed_at=5.0)["completed_at"] is None


def test_a_verdict_on_agreement_waits_for_the_last_ballot() -> None:
    def quarrel(call: Any) -> Any:
        # Ranks follow the rotation, so the three judges prefer in a circle.
        return ballot(call) if call.stage == "review" else good(call)

    table = Table(plan_of(*THREE), quarrel)
    table.session.start()
    table.step()
    calls = [(call, table.begin(call)) for call in table.session.due()]
    for call, started in calls[:2]:
        table.end(started, quarrel(call))
    assert (shown(table.session)["agreement"], shown(table.session)["contested"]) == (None, False)
    table.end(calls[2][1], quarrel(calls[2][0]))
    assert (shown(table.session)["agreement"], shown(table.session)["contested"]) == (0.0, True)


def test_failures_are_shown_at_their_seat() -> None:
    script = scripted(opinions_agent_1=failed("stall_timeout"), review_agent_2="prose")
    agents = shown(Table(plan_of(*THREE), script).run().session)["agents"]
    assert (agents[0]["state"], agents[0]["error"]["code"]) == ("failed", "stall_timeout")
    assert (agents[1]["review_state"], agents[1]["error"]["code"]) == ("abstained", "invalid_output")
    assert agents[2]["error"] is None


def test_an_answer_from_the_cache_says_so() -> None:
    assert shown(Table(plan_of("a")).run().session, cached=True)["cached"] is True


def test_the_document_has_everything_and_says_who_wrote_it() -> None:
    text = markdown(view(Table(plan_of(*THREE)).run().session))
    for part in (
        "# What is 2 + 2?",
        "**Result: full**",
        "written by the chairman (phi3.5)",
        "synthesis by chairman in run 1",
        "## Ranking",
        "### agent_2 (qwen2.5:0.5b)",
        "opinions by agent_2 in run 1",
        "## Ballots",
        "| total | 70 | 28 | 98 |",
        "| synthesis | chairman | pc2 |",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (scripted(opinions_agent_1=failed()), "Missing: agent_1."),
        (scripted(review_agent_1="prose"), "abstained: "),
        (scripted(synthesis_chairman=""), "top-ranked answer, word for word"),
        (scripted(opinions_agent_1=failed(), opinions_agent_2=failed()), "one voice only"),
        (
            scripted(**{f"opinions_agent_{n}": failed() for n in (1, 2, 3)}),
            "> **Not completed**: the session is failed.",
        ),
    ],
)
def test_the_document_says_what_was_not_whole(script: Any, said: str) -> None:
    assert said in markdown(view(Table(plan_of(*THREE), script).run().session))


def test_one_voice_is_never_headed_as_a_synthesis() -> None:
    text = markdown(view(Table(plan_of("a")).run().session))
    assert "*the answer of agent_1*\n\nopinions by agent_1" in text
    assert "chairman" not in text


def test_hostile_reasoning_cannot_leave_its_cell() -> None:
    def script(call: Any) -> Any:
        return (
            ballot(call).replace("about", "x | y <img src=q> [a](b)\\n# head")
            if call.stage == "review"
            else good(call)
        )

    text = markdown(view(Table(plan_of(*THREE), script).run().session))
    rows = [line for line in text.splitlines() if "img" in line]
    assert rows
    assert all(
        line.replace("\\|", "").count("|") == 5 and "<img" not in line.replace("\\<", "") for line in rows
    )
    assert "\n# head" not in text
