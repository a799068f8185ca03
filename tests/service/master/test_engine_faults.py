"""Engines and models that misbehave: the session ends in bounded time and says exactly what happened."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.service.master import rig
from tests.service.master.rig import CHAIRMAN, SEATS, Rig, assert_full, ballot, labelled_answers
from tests.standin import Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = {
    "GENERATION_TIMEOUT": "3",
    "COUNCIL_STALL_TIMEOUT_S": "1",
    "COUNCIL_FIRST_TOKEN_TIMEOUT_S": "1.5",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig.running(tmp_path_factory.mktemp("faults"), env=LIMITS) as found:
        yield found


def opinions(cluster: Rig, model: str) -> list[Any]:
    calls = cluster.standin.calls(model=model, kind="chat")
    return [one for one in calls if one.messages and not one.format_present]  # no messages: a mere load


def reviews(cluster: Rig, model: str) -> list[Any]:
    return [one for one in cluster.standin.calls(model=model, kind="chat") if one.format_present]


def error_of(session: Mapping[str, Any], agent_id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in session["agents"] if one["agent_id"] == agent_id)["error"]
    return found


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


async def hold(cluster: Rig, **fields: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    opened = await cluster.open(**fields)
    events = await cluster.all_events(opened["id"])
    return await cluster.get(opened["id"]), events


def assert_degraded_without(session: Mapping[str, Any], agent_id: str, code: str) -> None:
    """One seat failed; the others answered, judged each other, and the chairman concluded."""
    others = [one["agent_id"] for one in session["agents"] if one["agent_id"] != agent_id]
    assert (session["state"], session["result"]) == ("completed", "degraded")
    assert session["missing_agents"] == [agent_id]
    problem = error_of(session, agent_id)
    assert problem["code"] == code, problem
    assert any(agent_id in text and problem["detail"] in text for text in session["warnings"])
    assert [one["reviewer"] for one in session["ballots"]] == others
    assert not any(one["abstained"] for one in session["ballots"])
    assert {one["agent_id"] for one in session["ranking"]} == set(others)
    assert session["synthesis"]["kind"] == "chairman"


# -- one model fails for good -----------------------------------------------------------------------------

FOR_GOOD: dict[str, tuple[Fault, str, int]] = {
    "answers nothing": (Fault("empty", times=None), "empty_answer", 1),
    "never ends": (Fault("endless", times=None), "generation_timeout", 1),
    "stalls in mid-stream": (Fault("stall", after_tokens=3, times=None), "stall_timeout", 2),
    "ends with an error line": (Fault("error_line", after_tokens=3, times=None), "engine_failed", 2),
    "is cut": (Fault("cut", after_tokens=3, times=None), "stream_cut", 2),
    "is reset": (Fault("cut", after_tokens=3, reset=True, times=None), "stream_cut", 2),
    "ends without done": (Fault("no_done", after_tokens=3, times=None), "stream_cut", 2),
    "sends a line that is no JSON": (Fault("garbage_line", after_tokens=3, times=None), "engine_failed", 2),
    "sends blanks only": (Fault("whitespace", times=None), "stream_cut", 2),
    "does not fit": (Fault("out_of_memory", times=None), "out_of_memory", 4),
    "is refused for load": (Fault("busy", times=None), "engine_busy", 4),
    "is missing though listed": (
        Fault("status", status=404, text="model 'm2' not found", times=None),
        "model_not_found",
        1,
    ),
    "overflows its context": (
        Fault(
            "status",
            status=400,
            text='{"error":{"code":400,"message":"request (9000 tokens) exceeds the available context size '
            '(8192 tokens), try increasing it","type":"exceed_context_size_error"}}',
            times=None,
        ),
        "context_overflow",
        2,
    ),
    "refuses the request": (
        Fault("status", status=400, text="invalid format", times=None),
        "invalid_request",
        1,
    ),
}


@pytest.mark.parametrize("name", FOR_GOOD)
async def test_a_model_that_fails_for_good_costs_its_seat_and_no_more(cluster: Rig, name: str) -> None:
    fault, code, calls = FOR_GOOD[name]
    cluster.standin.add_faults(_of_opinions_of("m2", fault))
    session = await cluster.council()
    assert_degraded_without(session, "agent_2", code)
    assert len(opinions(cluster, "m2")) == calls
    assert reviews(cluster, "m2") == []


def _of_opinions_of(model: str, fault: Fault) -> Fault:
    return Fault(**{**vars(fault), "model": model, "has_format": False})


# -- one call fails and its second try works --------------------------------------------------------------

ONCE: dict[str, tuple[Fault, str]] = {
    "stall": (Fault("stall", after_tokens=3), "stall_timeout"),
    "no first token": (Fault("stall", after_tokens=0), "first_token_timeout"),
    "error line": (Fault("error_line", after_tokens=3), "engine_failed"),
    "cut": (Fault("cut", after_tokens=3), "stream_cut"),
    "end without done": (Fault("no_done", after_tokens=3), "stream_cut"),
    "busy": (Fault("busy"), "engine_busy"),
    "out of memory": (Fault("out_of_memory"), "out_of_memory"),
}


@pytest.mark.parametrize("name", ONCE)
async def test_a_call_that_fails_once_is_restarted_and_the_session_is_full(cluster: Rig, name: str) -> None:
    fault, code = ONCE[name]
    cluster.standin.add_faults(_of_opinions_of("m2", fault))
    session, events = await hold(cluster)
    assert_full(session)
    (restarted,) = of_type(events, "call.restarted")
    assert restarted["agent_id"] == "agent_2"
    assert (restarted["from_node"], restarted["to_node"], restarted["reason"]) == ("pc2", "pc2", code)
    # After it the text begins anew: what is shown live is what stands in the session.
    texts = [
        event["text"]
        for event in of_type(events, "call.delta")
        if (event["stage"], event["agent_id"]) == ("opinions", "agent_2") and event["seq"] > restarted["seq"]
    ]
    assert "".join(texts) == session["agents"][1]["opinion"]
    assert len(opinions(cluster, "m2")) == 2


async def test_an_overflowing_prompt_is_sent_once_more_and_smaller(cluster: Rig) -> None:
    fault = _of_opinions_of("m2", FOR_GOOD["overflows its context"][0])
    cluster.standin.add_faults(Fault(**{**vars(fault), "times": 1}))
    session, events = await hold(cluster, question="word " * 5000)
    assert_full(session)
    first, second = opinions(cluster, "m2")
    assert len(second.messages[-1]["content"]) < 0.7 * len(first.messages[-1]["content"])
    (failed,) = of_type(events, "call.failed")
    assert failed["error"]["code"] == "context_overflow"
    assert any(one["agent_id"] == "agent_2" and one["stage"] == "opinions" for one in session["trimmed"])


async def test_every_call_has_a_cap_on_its_length_and_reaching_it_is_said(cluster: Rig) -> None:
    cluster.standin.add_faults(
        Fault("endless", model="m2", has_format=False, obey_num_predict=True),
    )
    session = await cluster.council(options={"num_predict": 40})
    assert_full(session)
    assert len(session["agents"][1]["opinion"].split()) == 40
    assert [text for text in session["warnings"] if "agent_2" in text and "token limit" in text]
    assert all(0 < one.options["num_predict"] <= 8192 for one in cluster.standin.calls(kind="chat"))


async def test_an_endless_model_is_stopped_in_the_engine(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("endless", model="m2", has_format=False))
    await cluster.council()
    await cluster.standin.until(lambda server: not any(server.counters.in_flight.values()))
    assert opinions(cluster, "m2")[0].outcome == "cancelled"


async def test_thinking_is_no_answer(cluster: Rig) -> None:
    cluster.standin.set_model(rig.model("m2", thinking=True, reply=""))
    session, events = await hold(cluster)
    assert_degraded_without(session, "agent_2", "empty_answer")
    channels = {event["channel"] for event in of_type(events, "call.delta") if event["agent_id"] == "agent_2"}
    assert channels == {"thinking"}


async def test_a_nul_in_an_answer_is_left_out_of_what_is_kept(cluster: Rig) -> None:
    cluster.standin.set_model(rig.model("m2", reply="A zero\x00 byte\x00."))
    cluster.standin.add_faults(Fault("prose", model="m2", has_format=True, times=None))
    session = await cluster.council()
    assert session["agents"][1]["opinion"] == "A zero byte."
    assert session["missing_agents"] == []


async def test_every_model_failing_ends_the_session_as_failed_with_the_reasons(cluster: Rig) -> None:
    cluster.standin.add_faults(*(Fault("empty", model=name, times=None) for name in SEATS))
    session, events = await hold(cluster)
    assert session["state"] == "failed"
    assert session["error"]["code"] == "quorum_not_met"
    assert all(f"agent_{number}" in session["error"]["detail"] for number in (1, 2, 3))
    assert events[-1]["type"] == "session.failed"
    assert session["synthesis"] is None
    assert session["token_usage"]["stage2_review"] is None


async def test_a_missed_quorum_fails_though_some_answered(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("empty", model="m2", times=None))
    session = await cluster.council(quorum=3)
    assert (session["state"], session["error"]["code"]) == ("failed", "quorum_not_met")
    assert session["agents"][0]["opinion"]


async def test_a_lone_survivor_is_single_and_nobody_pretends_to_have_concluded(cluster: Rig) -> None:
    cluster.standin.add_faults(*(Fault("empty", model=name, times=None) for name in ("m1", "m3")))
    session = await cluster.council()
    assert (session["state"], session["result"]) == ("completed", "single")
    assert session["top_answer"] == "agent_2"
    assert session["missing_agents"] == ["agent_1", "agent_3"]


# -- the engine restarts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["opinions", "synthesis"])
async def test_an_engine_that_restarts_in_mid_stream_costs_a_restart_of_each_call(
    cluster: Rig, stage: str
) -> None:
    for name in (*SEATS, CHAIRMAN):
        cluster.standin.set_model(rig.model(name, token_ms=15))
    opened = await cluster.open()
    watching = asyncio.create_task(cluster.all_events(opened["id"]))
    await cluster.writing(opened["id"], stage)
    await cluster.standin.stop_accepting()
    cluster.standin.drop_all_connections()
    await asyncio.sleep(0.4)  # the time that a restart takes
    await cluster.standin.resume_accepting()
    events = await watching
    session = await cluster.get(opened["id"])
    assert_full(session)
    restarted = of_type(events, "call.restarted")
    assert {event["stage"] for event in restarted} == {stage}
    # What was counted: every call that was reported, and the text of those that broke off.
    prompt, completion = rig.reported_tokens(cluster.standin)
    cut = sum(one.tokens_sent for one in cluster.standin.calls(kind="chat", outcome="cut"))
    usage = session["token_usage"]
    assert usage["total_prompt_tokens"] == prompt
    assert completion <= usage["total_completion_tokens"] <= completion + cut


# -- ballots ----------------------------------------------------------------------------------------------

WORTH = {"alpha": 9, "beta": 6, "gamma": 3}
SAYS = dict(zip(SEATS, WORTH, strict=True))
AGENTS = {word: f"agent_{number}" for number, word in enumerate(WORTH, 1)}
Labels = Mapping[str, str]


def votes_of(request: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(label, WORTH[answer.split()[-1]]) for label, answer in labelled_answers(request).items()]


def member(name: str, review: Callable[[dict[str, Any]], str] | None = None) -> Any:
    """A model whose answer is one word, and whose ballot is honest unless `review` writes another."""

    def reply(request: dict[str, Any]) -> str:
        if request.get("format") is None:
            return f"The answer is {SAYS[name]}"
        return review(request) if review is not None else ballot(votes_of(request))

    return rig.model(name, reply=reply)


def scores(session: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """reviewer → agent → score, of the ballots that count."""
    return {
        one["reviewer"]: {vote["agent_id"]: vote["score"] for vote in one["rankings"]}
        for one in session["ballots"]
        if not one["abstained"]
    }


HONEST = {
    "agent_1": {"agent_2": 6, "agent_3": 3},
    "agent_2": {"agent_1": 9, "agent_3": 3},
    "agent_3": {"agent_1": 9, "agent_2": 6},
}


def _with(request: Mapping[str, Any], change: Callable[[list[dict[str, Any]]], Any]) -> str:
    content = json.loads(ballot(votes_of(request)))
    content["rankings"] = change(content["rankings"])
    return json.dumps(content)


BAD_BALLOTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "nothing": lambda request: "",
    "prose": lambda request: "The first answer is the best, I give it 10 of 10.",
    "prose with a score for each label": lambda request: ", ".join(f"{k}: 10" for k, _ in votes_of(request)),
    "half a JSON": lambda request: ballot(votes_of(request))[:-20],
    "a ballot in a code fence": lambda request: f"```json\n{ballot(votes_of(request))}\n```",
    "a ballot with a word after it": lambda request: ballot(votes_of(request)) + " Done.",
    "two ballots": lambda request: ballot(votes_of(request)) * 2,
    "an array": lambda request: json.dumps(json.loads(ballot(votes_of(request)))["rankings"]),
    "wrong labels": lambda request: ballot([("Answer 1", 10), ("agent_1", 10)]),
    "lower-case labels": lambda request: ballot([(label.lower(), 10) for label, _ in votes_of(request)]),
    "string scores": lambda request: ballot([(label, "10") for label, _ in votes_of(request)]),
    "fractions": lambda request: ballot([(label, 9.5) for label, _ in votes_of(request)]),
    "true for a score": lambda request: ballot([(label, True) for label, _ in votes_of(request)]),
    "a score of 11": lambda request: ballot([(label, 11) for label, _ in votes_of(request)]),
    "a score of 0": lambda request: ballot([(label, 0) for label, _ in votes_of(request)]),
    "no score": lambda request: _with(
        request, lambda entries: [{"label": one["label"], "reasoning": "x"} for one in entries]
    ),
    "NaN": lambda request: ballot(votes_of(request)).replace(": 9", ": NaN").replace(": 3", ": NaN"),
    "a duplicate entry": lambda request: _with(request, lambda entries: [*entries, entries[0]]),
    "one label twice in place of the other": lambda request: _with(
        request, lambda entries: [entries[0], entries[0]]
    ),
    "a missing entry": lambda request: _with(request, lambda entries: entries[:1]),
    "an entry for a stranger": lambda request: _with(
        request, lambda entries: [*entries, {"label": "?", "reasoning": "x", "score": 10}]
    ),
    "a key twice": lambda request: ballot(votes_of(request)).replace('"score"', '"score": 10, "score"'),
    "an extra key": lambda request: _with(request, lambda entries: [{**one, "rank": 1} for one in entries]),
    "deep nesting": lambda request: '{"rankings": ' + "[" * 20_000,
}


@pytest.mark.parametrize("name", BAD_BALLOTS)
async def test_a_ballot_that_is_not_valid_is_asked_for_once_more_and_never_guessed(
    cluster: Rig, name: str
) -> None:
    cluster.standin.set_model(member("m1"))
    cluster.standin.set_model(member("m2", BAD_BALLOTS[name]))
    cluster.standin.set_model(member("m3"))
    session = await cluster.council()
    assert (session["state"], session["result"]) == ("completed", "degraded")
    assert scores(session) == {who: cast for who, cast in HONEST.items() if who != "agent_2"}
    abstained = session["ballots"][1]
    assert abstained["reviewer"] == "agent_2"
    assert abstained["abstained"]
    assert session["agents"][1]["review_state"] == "abstained"
    assert any(abstained["reason"] in text for text in session["warnings"])
    assert len(reviews(cluster, "m2")) == 2
    assert [one["agent_id"] for one in session["ranking"]] == ["agent_1", "agent_2", "agent_3"]
    assert session["synthesis"]["kind"] == "chairman"


async def test_a_repaired_ballot_counts_and_is_told_what_was_wrong(cluster: Rig) -> None:
    bad = iter([True, False])
    cluster.standin.set_model(member("m1"))
    cluster.standin.set_model(
        member(
            "m2",
            lambda request: BAD_BALLOTS["string scores"](request) if next(bad) else ballot(votes_of(request)),
        )
    )
    cluster.standin.set_model(member("m3"))
    session, events = await hold(cluster)
    assert_full(session)
    assert scores(session) == HONEST
    first, second = reviews(cluster, "m2")
    assert "could not be counted" not in first.messages[-1]["content"]
    assert "whole number from 1 to 10" in second.messages[-1]["content"]
    (failed,) = of_type(events, "call.failed")
    assert (failed["stage"], failed["error"]["code"]) == ("review", "invalid_output")


async def test_where_all_reviewers_abstain_the_chairman_still_concludes_and_nothing_is_ranked(
    cluster: Rig,
) -> None:
    for name in SEATS:
        cluster.standin.set_model(member(name, BAD_BALLOTS["prose"]))
    session, events = await hold(cluster)
    assert (session["state"], session["result"]) == ("completed", "degraded")
    assert [one["abstained"] for one in session["ballots"]] == [True] * 3
    assert session["ranking"] == []
    assert session["agreement"] is None
    assert not session["contested"]
    assert session["synthesis"]["kind"] == "chairman"
    assert any("not ranked" in text for text in session["warnings"])
    assert len(of_type(events, "ballot.abstained")) == 3
    assert of_type(events, "ballot.accepted") == []


async def test_a_reviewer_whose_calls_fail_is_told_apart_from_one_that_abstains(cluster: Rig) -> None:
    for name in SEATS:
        cluster.standin.set_model(member(name))
    cluster.standin.add_faults(Fault("error_line", model="m3", has_format=True, times=None, after_tokens=2))
    session = await cluster.council()
    assert session["result"] == "degraded"
    assert scores(session) == {who: cast for who, cast in HONEST.items() if who != "agent_3"}
    assert session["agents"][2]["review_state"] == "failed"
    assert session["agents"][2]["error"]["code"] == "engine_failed"


# -- the chairman -----------------------------------------------------------------------------------------


async def test_a_failing_chairman_is_followed_by_the_named_fallback(cluster: Rig) -> None:
    cluster.standin.add_faults(Fault("empty", model=CHAIRMAN, times=None))
    session, events = await hold(cluster, chairman_fallbacks=["deputy"])
    assert (session["state"], session["result"]) == ("completed", "full")
    assert (session["synthesis"]["kind"], session["synthesis"]["model"]) == ("fallback_chairman", "deputy")
    assert any(CHAIRMAN in text for text in session["warnings"])
    told = [event for event in events if event.get("agent_id") == "chairman"]
    kinds = [event["type"] for event in told if event["type"] not in ("call.delta", "call.queued")]
    assert kinds == ["call.started", "call.failed", "call.started", "call.completed"]
    assert [event["model"] for event in told if event["type"] == "call.started"] == [CHAIRMAN, "deputy"]


async def test_without_a_named_fallback_the_best_ranked_model_presides(cluster: Rig) -> None:
    for name in SEATS:
        cluster.standin.set_model(member(name))
    cluster.standin.add_faults(Fault("empty", model=CHAIRMAN, times=None))
    session = await cluster.council()
    assert (session["synthesis"]["kind"], session["synthesis"]["model"]) == ("fallback_chairman", "m1")


async def test_where_nobody_can_preside_the_top_answer_stands_word_for_word(cluster: Rig) -> None:
    for name in SEATS:
        cluster.standin.set_model(member(name))
        # Opinion and review work; as chairman the model says nothing.
        cluster.standin.add_faults(Fault("empty", model=name, skip=2, times=None))
    cluster.standin.add_faults(Fault("empty", model=CHAIRMAN, times=None))
    session = await cluster.council()
    assert (session["state"], session["result"]) == ("completed", "degraded")
    assert session["synthesis"]["kind"] == "top_ranked"
    assert session["synthesis"]["text"] == session["agents"][0]["opinion"] == "The answer is alpha"
    assert session["top_answer"] == "agent_1"
    assert scores(session) == HONEST
    assert any("agent_1's answer stands" in text for text in session["warnings"])


async def test_a_chairman_that_leaves_the_cluster_during_the_session_is_replaced(cluster: Rig) -> None:
    for name in SEATS:
        cluster.standin.set_model(rig.model(name, token_ms=20))
    opened = await cluster.open(chairman_fallbacks=["deputy"])
    await cluster.writing(opened["id"], "opinions")
    async with httpx.AsyncClient(trust_env=False) as http:
        request = http.build_request(
            "DELETE", f"{cluster.standin.base_url}/api/delete", json={"model": CHAIRMAN}
        )
        assert (await http.send(request)).status_code == 200
    session = await cluster.ended(opened["id"])
    assert (session["synthesis"]["kind"], session["synthesis"]["model"]) == ("fallback_chairman", "deputy")
    assert any(CHAIRMAN in text for text in session["warnings"])
