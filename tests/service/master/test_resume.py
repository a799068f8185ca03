"""A master that is killed, wherever that is, and what the next one on its data folder makes of it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests import processes
from tests.conftest import BACKENDS, Backend
from tests.service.master.accounts import calls_of, is_canary, place_of, rows
from tests.service.master.lives import KILLED, Life, Nursery, ask, nursery
from tests.service.master.rig import CHAIRMAN, MODELS, SEATS, model
from tests.standin import Fault, StandInOllama
from tests.standin.journal import CallRecord
from tests.standin.model import Reply, default_reply

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked: Linux and macOS"),
]

# What the session of `QUESTION` commits: m1 has to repair its ballot, m2's opinion is cut off and restarted,
# the chairman says nothing and the deputy presides.
COMMITS = Counter(create=1, reserve_seq=1, set_state=4, begin_attempt=10, finish_attempt=10)
BOUNDARIES = [(number, when) for number in range(1, COMMITS.total() + 1) for when in ("before", "after")]
SOME = [BOUNDARIES[place] for place in (0, 1, 3, 6, 13, 18, 25, 31, 36, 43, 50, 51)]


def _eventful(request: dict[str, Any]) -> Reply | str:
    """Prose where a ballot was asked for, and the ballot once it is told that prose does not count."""
    said = "".join(message["content"] for message in request["messages"])
    if request.get("format") and "could not be counted" not in said:
        return "I like them all."
    return default_reply(model("m1"), request)


QUESTION = {
    "question": "What is 2 + 2?",
    "selected_agents": list(SEATS),
    "chairman": CHAIRMAN,
    "chairman_fallbacks": ["deputy"],
}


@dataclass(slots=True)
class Place:
    """An engine and a node that outlive every master, and the nursery of the masters."""

    standin: StandInOllama
    nodes: dict[str, str]
    lives: Nursery
    folder: Path
    sessions: int = 0

    def fresh(self) -> Path:
        """A data folder of its own, an engine that has forgotten all, with m2 about to be cut off once."""
        self.sessions += 1
        self.standin.reset()
        self.standin.add_faults(Fault("cut", model="m2", after_tokens=2, has_format=False))
        return self.folder / f"master-{self.sessions}"

    async def start(
        self, data_dir: Path, kill: tuple[int, str] | None = None, url: str | None = None
    ) -> Life:
        """A life in that folder, with its rows there or in the database at `url`."""
        env = {"COUNCIL_DATABASE_URL": url} if url else {}
        return await self.lives.start(data_dir, self.nodes, kill=kill, env=env)

    async def quiet(self) -> None:
        """Until the node has let go of the calls of a dead master."""
        await self.standin.until(lambda s: all(one.outcome != "running" for one in s.log), 20)

    def calls(self) -> list[CallRecord]:
        return [one for one in self.standin.log if one.kind == "chat" and not is_canary(one)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("resume")
    async with AsyncExitStack() as stack:
        replies = {"m1": _eventful, CHAIRMAN: Reply("")}
        made = [model(name, token_ms=4, reply=replies.get(name)) for name in MODELS]
        engine = StandInOllama(made, slots=5, max_loaded=len(MODELS))
        standin = await stack.enter_async_context(engine)
        node = await stack.enter_async_context(
            processes.node(folder / "node", name="pc2", ollama=standin.base_url)
        )
        lives = await stack.enter_async_context(nursery())
        yield Place(standin, {"pc2": node.url}, lives, folder)


async def test_an_undisturbed_session_commits_what_the_boundaries_are_made_of(place: Place) -> None:
    data_dir = place.fresh()
    life = await place.start(data_dir)
    session = await ask(life.url, QUESTION, key="undisturbed")
    life = await place.lives.stop()
    assert life.exit_code == 0
    assert Counter(life.commits) == COMMITS
    assert session is not None
    _is_whole(session)
    assert calls_of(rows(data_dir), "restarted") == {("opinions", "m2"): 1}


async def _dies_and_resumes(place: Place, boundary: tuple[int, str], url: str | None = None) -> None:
    data_dir = place.fresh()
    where = url or data_dir
    life = await place.start(data_dir, boundary, url)
    assert await ask(life.url, QUESTION, key="k") is None
    assert (await place.lives.ended()).exit_code == KILLED
    assert len(life.commits) >= boundary[0]
    await place.quiet()
    committed = rows(where)
    stored = [row["id"] for row in rows(where, "SELECT id FROM sessions")] if committed else []
    before = len(place.calls())

    life = await place.start(data_dir, url=url)
    session = await ask(life.url, QUESTION, key="k")  # the key attaches to the session that was there
    assert session is not None
    _is_whole(session)
    assert not stored or stored == [session["id"]]
    attempts = rows(where)
    _lost_nothing(committed, attempts)
    decided = ("done", "failed", "restarted")
    again = Counter(place_of(one) for one in place.calls()[before:] if one.outcome != "cancelled")
    assert again == calls_of(attempts, *decided) - calls_of(committed, *decided), "a finished call ran again"
    _adds_up(session, attempts, place.calls())
    assert (await place.lives.stop()).exit_code == 0


def _is_whole(session: dict[str, Any]) -> None:
    assert (session["state"], session["result"], session["error"]) == ("completed", "full", None)
    assert [one["state"] for one in session["agents"]] == ["done"] * 3
    assert [one["review_state"] for one in session["agents"]] == ["done"] * 3
    assert all(one["opinion"] for one in session["agents"])
    assert [len(one["rankings"]) for one in session["ballots"]] == [2, 2, 2]
    assert len(session["ranking"]) == 3
    assert (session["synthesis"]["kind"], session["synthesis"]["model"]) == ("fallback_chairman", "deputy")
    assert session["completed_at"] is not None


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("session_id", "run", "stage", "agent_id", "attempt"))


def _lost_nothing(committed: list[dict[str, Any]], attempts: list[dict[str, Any]]) -> None:
    """Committed rows are as they were; what ran at the kill is kept, with its usage unknown."""
    now = {_key(row): row for row in attempts}
    for row in committed:
        kept = now[_key(row)]
        if row["outcome"] == "running":
            assert (kept["outcome"], kept["usage_unknown"]) == ("interrupted", 1)
            assert kept["ended_at"] >= row["started_at"]
        else:
            assert kept == row
    running = [row for row in committed if row["outcome"] == "running"]
    assert calls_of(attempts, "interrupted").total() == len(running)
    assert not calls_of(attempts, "running")


def _adds_up(session: dict[str, Any], attempts: list[dict[str, Any]], calls: list[CallRecord]) -> None:
    """The session's tokens are the sum of its rows, and finished rows are what the engine reported."""
    usage = session["token_usage"]
    assert usage["total_prompt_tokens"] == sum(row["prompt_tokens"] for row in attempts)
    assert usage["total_completion_tokens"] == sum(row["completion_tokens"] for row in attempts)
    reported = Counter(
        (*place_of(one), one.prompt_eval_count or 0, one.eval_count or 0)
        for one in calls
        if one.outcome == "done"
    )
    kept = Counter(
        (row["stage"], row["model"], row["prompt_tokens"], row["completion_tokens"])
        for row in attempts
        if row["outcome"] == "done"
    )
    assert kept <= reported
    # An answer whose row had not been committed yet is one of the interrupted attempts.
    assert (reported - kept).total() <= calls_of(attempts, "interrupted").total()


@pytest.mark.parametrize("boundary", SOME, ids=lambda one: f"{one[1]}-{one[0]}")
async def test_a_master_killed_at_a_commit_ends_its_session_whole(
    place: Place, boundary: tuple[int, str]
) -> None:
    await _dies_and_resumes(place, boundary)


@pytest.mark.parametrize("boundary", SOME[2::4], ids=lambda one: f"{one[1]}-{one[0]}")
async def test_a_master_on_a_server_killed_at_a_commit_ends_its_session_whole(
    place: Place, boundary: tuple[int, str], postgres_url: str
) -> None:
    await _dies_and_resumes(place, boundary, postgres_url)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda one: f"{one[1]}-{one[0]}")
async def test_a_master_killed_at_any_commit_ends_its_session_whole(
    place: Place, boundary: tuple[int, str], backend: Backend, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if backend == "postgresql" else None
    await _dies_and_resumes(place, boundary, url)


async def test_masters_that_die_again_and_again_while_they_resume_lose_and_repeat_nothing(
    place: Place,
) -> None:
    data_dir = place.fresh()
    life = await place.start(data_dir, (8, "before"))
    assert await ask(life.url, QUESTION, key="k") is None
    assert (await place.lives.ended()).exit_code == KILLED
    # A life's first three commits are the resuming itself; every later one takes some calls further.
    for number in (1, 2, 3, 4, 6, 7, 7, 8):
        await place.quiet()
        committed = rows(data_dir)
        await place.start(data_dir, (number, "after"))
        assert (await place.lives.ended()).exit_code == KILLED
        kept = {_key(row): row for row in rows(data_dir)}
        assert all(kept[_key(row)] == row for row in committed if row["outcome"] != "running")
    await place.quiet()
    session = await ask((await place.start(data_dir)).url, QUESTION, key="k")
    assert session is not None
    _is_whole(session)
    attempts = rows(data_dir)
    _adds_up(session, attempts, place.calls())
    assert calls_of(attempts, "interrupted").total() > 3
    finished = calls_of(attempts, "done")
    assert finished == Counter(
        {
            **{("opinions", seat): 1 for seat in SEATS},
            **{("review", seat): 1 + (seat == "m1") for seat in SEATS},
            ("synthesis", CHAIRMAN): 1,
            ("synthesis", "deputy"): 1,
        }
    )
    assert len({_key(row) for row in attempts}) == len(attempts)


# -- retries, cancellations, keys, an orderly stop --------------------------------------------------------


async def _follow(url: str, session_id: str) -> dict[str, Any]:
    """The session once its events have ended."""
    address = f"/api/council/sessions/{session_id}"
    async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
        headers = {"accept": "text/event-stream"}
        async with client.stream("GET", f"{address}/events", headers=headers) as response:
            async for _ in response.aiter_raw():
                continue
        session: dict[str, Any] = (await client.get(address)).json()
    return session


async def _writes(url: str, session_id: str, agent_id: str, pieces: int = 1) -> None:
    """Wait until so many pieces of an agent's text have come."""
    address = f"{url}/api/council/sessions/{session_id}/events"
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
        async with client.stream("GET", address, headers={"accept": "text/event-stream"}) as response:
            async for line in response.aiter_lines():
                pieces -= '"call.delta"' in line and f'"{agent_id}"' in line
                if pieces <= 0:
                    return
    raise AssertionError("the session ended before")


async def _post(url: str, path: str, **more: Any) -> httpx.Response | None:
    """A request that the master may die over."""
    async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
        try:
            return await client.post(f"/api/council/sessions{path}", **more)
        except httpx.TransportError:
            return None


# A retry of m3 in a fresh life: 1 reserve_seq, 2 reopen, 3 set_state, 4 and 5 its opinion, 6 set_state, the
# ballots of the two others with a repair, set_state, the two chairmen, set_state.
@pytest.mark.parametrize(
    "boundary", [(2, "before"), (2, "after"), (4, "after"), (5, "after"), (9, "before"), (18, "before")]
)
async def test_a_master_killed_during_a_retry_ends_the_run_that_was_opened(
    place: Place, boundary: tuple[int, str]
) -> None:
    data_dir = place.fresh()
    first = await ask((await place.start(data_dir)).url, QUESTION, key="k")
    assert first is not None
    assert (await place.lives.stop()).exit_code == 0
    life = await place.start(data_dir, boundary)
    await _post(life.url, f"/{first['id']}/agents/agent_3/retry")
    assert (await place.lives.ended()).exit_code == KILLED
    await place.quiet()
    committed = rows(data_dir)
    before = len(place.calls())

    life = await place.start(data_dir)
    session = await _follow(life.url, first["id"])
    _is_whole(session)
    assert session["run"] == (1 if boundary == (2, "before") else 2)
    assert session["agents"][0]["opinion"] == first["agents"][0]["opinion"]
    attempts = rows(data_dir)
    _lost_nothing(committed, attempts)
    again = Counter(place_of(one) for one in place.calls()[before:])
    assert again == calls_of(attempts, "done") - calls_of(committed, "done")
    _adds_up(session, attempts, place.calls())
    if session["run"] == 2:
        second = [row for row in attempts if row["run"] == 2]
        assert {one["agent_id"] for one in second if one["stage"] == "opinions"} == {"agent_3"}
        assert {one["agent_id"] for one in second if one["stage"] == "review"} == {"agent_1", "agent_2"}
        assert [row["run"] for row in rows(data_dir, "SELECT run FROM session_retries")] == [2]


# A lone agent that never stops: 1 create, 2 reserve_seq, 3 set_state, 4 begin, and with the cancellation
# 5 cancelling, 6 finish, 7 set_state.
@pytest.mark.parametrize("boundary", [(number, when) for number in (5, 6, 7) for when in ("before", "after")])
async def test_a_master_killed_over_a_cancellation_does_not_take_it_back(
    place: Place, boundary: tuple[int, str]
) -> None:
    data_dir = place.fresh()
    place.standin.add_faults(Fault("endless", model="m3"))
    life = await place.start(data_dir, boundary)
    opened = await _post(life.url, "", json={**QUESTION, "selected_agents": ["m3"]})
    assert opened is not None
    session_id = opened.json()["id"]
    await _writes(life.url, session_id, "agent_1")
    await _post(life.url, f"/{session_id}/cancel")
    assert (await place.lives.ended()).exit_code == KILLED
    await place.quiet()
    calls = len(place.calls())

    life = await place.start(data_dir)
    session = await _follow(life.url, session_id)
    attempts = rows(data_dir)
    if boundary == (5, "before"):  # nobody was told of the cancellation, and nothing was kept of it
        assert (session["state"], session["result"]) == ("completed", "single")
        assert [row["outcome"] for row in attempts] == ["interrupted", "done"]
        return
    assert (session["state"], session["result"]) == ("cancelled", None)
    assert session["completed_at"] is not None
    assert len(place.calls()) == calls, "a cancelled session called again"
    assert [row["outcome"] for row in attempts] == [
        "interrupted" if boundary in [(5, "after"), (6, "before")] else "cancelled"
    ]
    assert all(row["usage_unknown"] for row in attempts)
    again = await _post(life.url, f"/{session_id}/cancel")
    assert again is not None
    assert again.status_code == 409


async def test_a_key_sent_again_after_a_crash_attaches_to_the_session_that_it_opened(place: Place) -> None:
    data_dir = place.fresh()
    life = await place.start(data_dir, (7, "after"))
    assert await ask(life.url, QUESTION, key="once") is None
    await place.lives.ended()
    life = await place.start(data_dir)
    twins = await asyncio.gather(*(ask(life.url, QUESTION, key="once") for _ in range(4)))
    assert len({one["id"] for one in twins if one is not None}) == 1
    other = await _post(life.url, "", json={**QUESTION, "quorum": 2}, headers={"idempotency-key": "once"})
    assert other is not None
    assert other.status_code == 422
    assert len(rows(data_dir, "SELECT id FROM sessions")) == 1


async def test_a_master_stopped_in_order_leaves_a_session_that_goes_on_in_the_next(place: Place) -> None:
    data_dir = place.fresh()
    place.standin.add_faults(Fault("stall", model="m3", after_tokens=3, has_format=False))
    life = await place.start(data_dir)
    opened = await _post(life.url, "", json=QUESTION)
    assert opened is not None
    async with asyncio.timeout(20):  # what the engine has done is not committed yet
        while calls_of(rows(data_dir), "done").total() < 2:  # noqa: ASYNC110  # a row is no event of ours
            await asyncio.sleep(0.02)
    await _writes(life.url, opened.json()["id"], "agent_3")  # three tokens may come in one piece
    ended = await place.lives.stop()
    assert ended.exit_code == 0
    await place.quiet()
    committed = rows(data_dir)
    assert calls_of(committed, "done") == {("opinions", "m1"): 1, ("opinions", "m2"): 1}

    life = await place.start(data_dir)
    session = await _follow(life.url, opened.json()["id"])
    _is_whole(session)
    _lost_nothing(committed, rows(data_dir))
    _adds_up(session, rows(data_dir), place.calls())
    assert calls_of(rows(data_dir), "done")["opinions", "m1"] == 1
