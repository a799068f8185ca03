"""The session: what is due when, what an outcome leads to, and what is said about it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from common.errors import ConflictError, InternalError, InvalidRequestError, NotFoundError
from common.usage import TokenUsage
from master.council.plan import AttemptRecord, Outcome, SessionPlan, seats_of
from master.council.session import Session
from master.council.states import OVER, TRANSITIONS, State
from tests.unit.council.table import THREE, Table, ballot, failed, good, labels_of, plan_of, scripted


def kinds(table: Table) -> list[str]:
    return [event["type"] for event in table.events]


def test_all_opinions_are_due_at_once_and_reviews_only_when_all_are_decided() -> None:
    table = Table(plan_of(*THREE))
    table.session.start()
    calls = table.session.due()
    assert [(one.stage, one.agent_id, one.attempt, one.purpose) for one in calls] == [
        ("opinions", f"agent_{n}", 1, "first") for n in (1, 2, 3)
    ]
    started = [table.begin(one) for one in calls]
    assert table.session.due() == []
    table.end(started[0], "one")
    table.end(started[1], "two")
    assert table.session.due() == []
    table.end(started[2], "three")
    assert [one.stage for one in table.session.due()] == ["review"] * 3


def test_asking_what_is_due_changes_nothing() -> None:
    session = Session(plan_of(*THREE))
    session.start()
    assert session.due() == session.due()


def test_a_council_where_all_goes_well_is_full() -> None:
    table = Table(plan_of(*THREE)).run()
    session = table.session
    assert (session.state, session.result, session.warnings) == (State.COMPLETED, "full", [])
    assert session.synthesis is not None
    assert (session.synthesis.kind, session.synthesis.model) == ("chairman", "phi3.5")
    assert table.called() == [
        *(f"opinions agent_{n}" for n in (1, 2, 3)),
        *(f"review agent_{n}" for n in (1, 2, 3)),
        "synthesis chairman",
    ]


def test_the_events_tell_the_story_in_order() -> None:
    events = Table(plan_of("a", "b")).run().events
    assert [event["type"] for event in events] == [
        "session.started",
        "stage.started",
        "call.completed",
        "call.completed",
        "stage.completed",
        "stage.started",
        *["call.completed", "ballot.accepted", "ranking.updated"] * 2,
        "stage.completed",
        "stage.started",
        "call.completed",
        "stage.completed",
        "session.completed",
    ]
    assert [event["stage"] for event in events if event["type"] == "stage.started"] == [
        "opinions",
        "review",
        "synthesis",
    ]
    json.dumps(events)


def test_a_council_of_one_is_single_and_needs_no_review() -> None:
    table = Table(plan_of("llama3.2:1b")).run()
    session = table.session
    assert (session.result, session.synthesis, session.top_answer) == ("single", None, "agent_1")
    assert table.called() == ["opinions agent_1"]


def test_one_survivor_is_a_single_voice_and_the_missing_are_named() -> None:
    script = scripted(opinions_agent_1=failed(), opinions_agent_3="   \n")
    session = Table(plan_of(*THREE), script).run().session
    assert (session.result, session.synthesis, session.top_answer) == ("single", None, "agent_2")
    assert session.missing_agents == ["agent_1", "agent_3"]


def test_a_missing_opinion_degrades_the_result_and_the_rest_goes_on() -> None:
    table = Table(plan_of(*THREE), scripted(opinions_agent_2=failed("stall_timeout"))).run()
    assert (table.session.result, table.session.missing_agents) == ("degraded", ["agent_2"])
    assert [one for one in table.called() if one.startswith("review")] == ["review agent_1", "review agent_3"]
    assert any("agent_2 (qwen2.5:0.5b) gave no answer" in text for text in table.session.warnings)


@pytest.mark.parametrize("quorum", [2, 3])
def test_a_missed_quorum_fails_the_session(quorum: int) -> None:
    script = scripted(opinions_agent_1=failed(), opinions_agent_2=failed("out_of_memory"))
    table = Table(plan_of(*THREE, quorum=quorum), script).run()
    assert table.session.state is State.FAILED
    assert table.session.error is not None
    assert table.session.error["code"] == "quorum_not_met"
    assert table.events[-1] == {"type": "session.failed", "error": table.session.error}
    assert table.session.result is None


def test_without_any_opinion_the_session_fails() -> None:
    script = scripted(opinions_agent_1=failed(), opinions_agent_2=failed())
    assert Table(plan_of("a", "b"), script).run().session.state is State.FAILED


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_answer_without_a_word_is_a_failed_call_even_after_thinking(text: str) -> None:
    table = Table(plan_of("a", "b"), scripted(opinions_agent_1={"text": text, "thinking": "hmm, 4"})).run()
    (event,) = table.happened("call.failed")
    assert (event["agent_id"], event["error"]["code"]) == ("agent_1", "empty_answer")
    assert "agent_1" not in table.session.opinions


def test_a_failed_call_is_not_made_again() -> None:
    table = Table(plan_of("a", "b"), scripted(opinions_agent_1=failed("generation_timeout"))).run()
    assert table.called().count("opinions agent_1") == 1


def test_a_context_overflow_is_tried_once_more_with_half_the_budget() -> None:
    plan = plan_of("a", "b", question="word " * 1400, contexts={"a": 4096, "b": 4096})
    table = Table(plan, scripted(opinions_agent_1=[failed("context_overflow"), "short"])).run()
    first, second = (one for one in table.calls if one.agent_id == "agent_1" and one.stage == "opinions")
    assert (second.attempt, second.purpose) == (2, "smaller")
    assert len(second.messages[-1].content) < 0.6 * len(first.messages[-1].content)
    assert table.session.opinions["agent_1"].text == "short"
    assert [trim.agent_id for trim in table.session.trimmed if trim.stage == "opinions"] == ["agent_1"]


def test_a_second_context_overflow_is_final() -> None:
    table = Table(plan_of("a", "b"), scripted(opinions_agent_1=failed("context_overflow"))).run()
    assert table.called().count("opinions agent_1") == 2
    assert table.session.missing_agents == ["agent_1"]


def test_a_bad_ballot_is_repaired_once_with_the_problem_quoted() -> None:
    def script(call: Any) -> Any:
        if call.stage == "review" and call.agent_id == "agent_1":
            return "I think they are all fine" if call.attempt == 1 else ballot(call)
        return good(call)

    table = Table(plan_of(*THREE), script).run()
    first, second = (one for one in table.calls if one.stage == "review" and one.agent_id == "agent_1")
    assert (first.think, second.think, second.purpose) == (False, None, "repair")
    assert "could not be counted" in second.messages[-1].content
    assert second.messages[-1].content.startswith(first.messages[-1].content)
    assert [event["error"]["code"] for event in table.happened("call.failed")] == ["invalid_output"]
    assert (table.session.result, table.session.warnings) == ("full", [])


def test_a_reviewer_whose_repair_fails_too_abstains_with_the_reason() -> None:
    table = Table(plan_of(*THREE), scripted(review_agent_2="no JSON here")).run()
    (event,) = table.happened("ballot.abstained")
    assert event["reviewer"] == "agent_2"
    assert "JSON" in event["reason"]
    assert table.called().count("review agent_2") == 2
    assert table.session.result == "degraded"
    assert table.session.call_state("review", "agent_2")[0] == "abstained"
    assert sum(entry.votes for entry in table.session.ranking.entries) == 4


def test_a_reviewer_whose_call_fails_is_not_asked_again() -> None:
    table = Table(plan_of(*THREE), scripted(review_agent_2=failed("node_unreachable"))).run()
    assert table.called().count("review agent_2") == 1
    assert table.session.call_state("review", "agent_2")[0] == "failed"
    assert table.session.ballots["agent_2"].abstained
    assert table.session.result == "degraded"


def test_when_all_reviewers_abstain_the_chairman_still_concludes() -> None:
    bad = {f"review_agent_{n}": "prose" for n in (1, 2, 3)}
    table = Table(plan_of(*THREE), scripted(**bad)).run()
    session = table.session
    assert (session.ranking.entries, session.top_answer, session.result) == ((), None, "degraded")
    assert session.synthesis is not None
    assert session.synthesis.kind == "chairman"
    assert any("not ranked" in text for text in session.warnings)


def test_two_agents_score_each_others_answer() -> None:
    table = Table(plan_of("a", "b")).run()
    assert [len(labels_of(one)) for one in table.calls if one.stage == "review"] == [1, 1]
    assert {entry.votes for entry in table.session.ranking.entries} == {1}
    assert table.session.result == "full"


def test_the_same_model_twice_is_two_seats() -> None:
    table = Table(plan_of(*["llama3.2:1b"] * 5)).run()
    assert set(table.session.opinions) == {f"agent_{n}" for n in range(1, 6)}
    assert {one.votes for one in table.session.ranking.entries} == {4}


def test_votes_reach_the_agent_whose_answer_stood_under_the_label() -> None:
    def script(call: Any) -> Any:
        if call.stage != "review":
            return good(call)
        # The best score for the text of agent_2, whatever its label.
        votes = []
        for label in labels_of(call):
            after = call.messages[-1].content.split(f"[ANSWER {label} ")[1]
            votes.append(
                {
                    "label": label,
                    "reasoning": "r",
                    "score": 10 if "by agent_2" in after.split("[END")[0] else 2,
                }
            )
        return json.dumps({"rankings": votes})

    session = Table(plan_of(*THREE, "tinyllama"), script).run().session
    assert session.top_answer == "agent_2"
    for reviewer, cast in session.ballots.items():
        for one in cast.rankings:
            assert one.score == (10 if one.agent_id == "agent_2" else 2), reviewer


def test_the_chairs_chain_goes_from_chairman_to_fallbacks_to_seats_by_rank() -> None:
    def script(call: Any) -> Any:
        if call.stage == "synthesis":
            return failed() if call.model != "gemma2:2b" else "by the last resort"
        return good(call)

    table = Table(plan_of(*THREE, chairman_fallbacks=("mistral:7b", "phi3.5")), script).run()
    models = [one.model for one in table.calls if one.stage == "synthesis"]
    assert models[:2] == ["phi3.5", "mistral:7b"]
    by_rank = [table.session.opinions[agent].model for agent in table.session.ranking.order]
    assert models[2:] == by_rank[: by_rank.index("gemma2:2b") + 1]
    assert [one.attempt for one in table.calls if one.stage == "synthesis"] == list(range(1, len(models) + 1))
    assert {one.purpose for one in table.calls if one.stage == "synthesis"} == {"first", "fallback"}
    assert table.session.synthesis is not None
    assert table.session.synthesis.kind == "fallback_chairman"


def test_without_any_chairman_the_top_ranked_answer_stands_word_for_word() -> None:
    table = Table(plan_of(*THREE), scripted(synthesis_chairman="")).run()
    session = table.session
    assert session.synthesis is not None
    assert session.top_answer == session.ranking.leader
    assert session.top_answer is not None
    assert session.synthesis.text == session.opinions[session.top_answer].text
    assert (session.synthesis.kind, session.result) == ("top_ranked", "degraded")
    assert any("no chairman" in text for text in session.warnings)


def test_an_answer_cut_at_its_limit_is_kept_and_told() -> None:
    script = scripted(opinions_agent_1={"text": "half a sen", "done_reason": "length"})
    session = Table(plan_of("a", "b"), script).run().session
    assert any("agent_1's answer ends where" in text for text in session.warnings)


def test_a_restarted_attempt_decides_nothing_and_counts_for_the_tokens() -> None:
    table = Table(plan_of("a", "b"))
    table.events += table.session.start()
    one, two = (table.begin(call) for call in table.session.due())
    lost = {"outcome": Outcome.RESTARTED, "text": "half", "token_usage": TokenUsage.of(5, 3)}
    assert table.end(one, lost) == []
    again = replace(one, attempt=2, node="pc3")
    table.session.begin(again)
    assert table.session.due() == []
    table.end(again, "whole")
    table.end(two, "two")
    completed = table.happened("stage.completed")[0]
    assert completed["token_usage"]["total_tokens"] == 14 + 14 + 8
    assert completed["latency"]["by_agent"]["agent_1"]["node"] == "pc3"
    assert table.session.opinions["agent_1"].text == "whole"


def test_a_restart_that_the_master_did_not_live_to_see_is_due_as_the_next_attempt() -> None:
    plan = plan_of("a", "b")
    row = AttemptRecord(1, "opinions", "agent_1", 1, "a", "pc2", Outcome.RESTARTED, ended_at=1.0)
    due = {one.agent_id: one.attempt for one in Session.resume(plan, [row]).due()}
    assert due == {"agent_1": 2, "agent_2": 1}


def test_cancelling_ends_a_session_and_late_rows_only_count() -> None:
    table = Table(plan_of("a", "b"))
    table.session.start()
    one, two = (table.begin(call) for call in table.session.due())
    table.end(one, "done in time")
    assert table.session.cancel() == [{"type": "session.cancelled"}]
    assert table.end(two, {"outcome": Outcome.CANCELLED, "text": "ha"}) == []
    assert (table.session.state, table.session.due()) == (State.CANCELLED, [])
    assert sum(one.token_usage.total_tokens for one in table.session.records) == 28
    assert table.session.cancel() == []


def test_attempts_cancelled_before_their_session_do_not_fail_it() -> None:
    table = Table(plan_of("a", "b"))
    table.session.start()
    for started in [table.begin(call) for call in table.session.due()]:
        table.end(started, {"outcome": Outcome.CANCELLED, "text": ""})
    assert table.session.state is State.OPINIONS
    assert table.session.cancel() == [{"type": "session.cancelled"}]


def test_a_completed_session_cannot_be_cancelled_any_more() -> None:
    session = Table(plan_of("a")).run().session
    assert session.cancel() == []
    assert session.state is State.COMPLETED


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.FAILED])
def test_a_record_that_no_open_call_explains_raises_with_the_story(outcome: Outcome) -> None:
    session = Session(plan_of("a", "b"))
    session.start()
    stray = AttemptRecord(1, "review", "agent_1", 1, "a", outcome=outcome, text="x")
    with pytest.raises(InternalError, match=r"does not wait for review agent_1#1.*queued → opinions"):
        session.apply(stray)
    for wrong in (
        replace(stray, stage="opinions", agent_id="agent_7"),
        replace(stray, stage="opinions", run=2),
        replace(stray, stage="synthesis"),
    ):
        with pytest.raises(InternalError, match="has no call"):
            session.apply(wrong)


def test_the_same_row_twice_raises() -> None:
    session = Session(plan_of("a", "b"))
    session.start()
    row = AttemptRecord(1, "opinions", "agent_1", 1, "a", outcome=Outcome.DONE, text="x")
    session.apply(row)
    with pytest.raises(InternalError, match="twice"):
        session.apply(row)


def test_an_illegal_move_raises() -> None:
    session = Session(plan_of("a"))
    session.start()
    with pytest.raises(InternalError, match="cannot go from opinions to opinions"):
        session.start()


def test_every_end_is_left_by_a_retry_only_and_every_state_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set().union(*TRANSITIONS.values()) == set(State) - {State.QUEUED}
    for state in OVER:
        assert not TRANSITIONS[state] & OVER


def test_a_council_without_seats_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        Session(SessionPlan("s", "c", "q", (), "phi3.5"))


def test_the_users_sampling_reaches_opinions_and_synthesis_and_never_a_review() -> None:
    plan = plan_of("a", "a", "b", options={"temperature": 1.7, "seed": 7, "num_predict": 50})
    table = Table(plan).run()
    for call in table.calls:
        if call.stage == "review":
            assert call.options["temperature"] == 0.2
            assert "seed" not in call.options
        else:
            assert (call.options["temperature"], call.options["num_predict"]) == (1.7, 50)
    seeds = [call.options["seed"] for call in table.calls if call.stage == "opinions"]
    assert seeds == [7, 8, 7], "twins with one seed would answer word for word the same"


def test_a_plan_comes_back_from_its_column_as_it_was() -> None:
    plan = replace(
        plan_of(*THREE, quorum=2, options={"seed": 1}, contexts={"a": 2048}),
        seats=seats_of([("a", None), ("b", "sceptic")]),
        practice=True,
    )
    assert SessionPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_every_warning_is_sent_once_and_before_the_end() -> None:
    script = scripted(opinions_agent_1=failed(), review_agent_2="prose", synthesis_chairman=failed())
    table = Table(plan_of(*THREE), script).run()
    sent = [event["text"] for event in table.happened("warning")]
    assert len(sent) == len(set(sent))
    assert set(table.session.warnings) <= set(sent)
    assert table.events[-1]["type"] == "session.completed"


# Retry


def test_a_retry_is_refused_while_the_session_runs_and_for_strangers() -> None:
    session = Session(plan_of("a", "b"))
    session.start()
    with pytest.raises(ConflictError):
        session.retry("agent_1")
    done = Table(plan_of("a", "b")).run().session
    with pytest.raises(NotFoundError):
        done.retry("agent_3")


def test_retrying_a_failed_opinion_asks_everybody_else_to_vote_again() -> None:
    table = Table(plan_of(*THREE), scripted(opinions_agent_2=failed())).run()
    table.retry("agent_2", good)
    assert table.called(run=2) == [
        "opinions agent_2",
        "review agent_1",
        "review agent_2",
        "review agent_3",
        "synthesis chairman",
    ]
    assert (table.session.result, table.session.missing_agents, table.session.warnings) == ("full", [], [])
    assert table.happened("session.reopened") == [
        {"type": "session.reopened", "run": 2, "agent_id": "agent_2"}
    ]


def test_retrying_a_good_opinion_keeps_its_authors_ballot() -> None:
    table = Table(plan_of(*THREE)).run().retry("agent_2")
    assert table.called(run=2) == [
        "opinions agent_2",
        "review agent_1",
        "review agent_3",
        "synthesis chairman",
    ]
    assert table.session.opinions["agent_2"].text == "opinions by agent_2 in run 2"
    assert table.session.ballots["agent_2"].run == 1


def test_retrying_where_only_the_ballot_failed_asks_for_the_ballot_alone() -> None:
    table = Table(plan_of(*THREE), scripted(review_agent_3="prose")).run()
    table.retry("agent_3", good)
    assert table.called(run=2) == ["review agent_3", "synthesis chairman"]
    assert table.session.result == "full"


def test_retrying_the_chairman_writes_the_synthesis_alone_anew() -> None:
    table = Table(plan_of(*THREE)).run().retry("chairman")
    assert table.called(run=2) == ["synthesis chairman"]
    assert table.session.synthesis is not None
    assert table.session.synthesis.text == "synthesis by chairman in run 2"


def test_an_opinion_whose_retry_fails_stays_and_so_does_all_that_was_built_on_it() -> None:
    table = Table(plan_of(*THREE)).run()
    before = (table.session.opinions, table.session.synthesis, table.session.ranking)
    table.retry("agent_1", scripted(opinions_agent_1=failed()))
    assert (table.session.opinions, table.session.synthesis, table.session.ranking) == before
    assert table.called(run=2) == ["opinions agent_1"]
    assert any("earlier answer stands" in text for text in table.session.warnings)


def test_a_synthesis_whose_retry_fails_stays() -> None:
    table = Table(plan_of(*THREE)).run().retry("chairman", scripted(synthesis_chairman=failed()))
    assert table.session.synthesis is not None
    assert (table.session.synthesis.kind, table.session.synthesis.run) == ("chairman", 1)
    assert any("earlier one stands" in text for text in table.session.warnings)


def test_a_failed_session_is_mended_by_a_retry() -> None:
    table = Table(plan_of("a", "b", quorum=2), scripted(opinions_agent_1=failed())).run()
    assert table.session.state is State.FAILED
    table.retry("agent_1", good)
    assert (table.session.state, table.session.error, table.session.result) == (State.COMPLETED, None, "full")


def test_a_chairman_has_nothing_to_retry_with_one_answer() -> None:
    session = Table(plan_of("a")).run().session
    with pytest.raises(ConflictError):
        session.retry("chairman")
    assert session.run == 1


def test_the_figures_of_a_retried_session_are_the_sums_over_all_its_runs() -> None:
    table = Table(plan_of("a", "b")).run()
    table.retry("agent_1")
    last = table.happened("stage.completed")
    opinions = [event for event in last if event["stage"] == "opinions"][-1]
    assert opinions["token_usage"]["total_tokens"] == 14 * 3
    assert opinions["latency"]["by_agent"]["agent_1"]["total_ms"] == 2000.0
    assert opinions["latency"]["duration_ms"] == 3000.0
