"""A master that is killed, wherever that is, and what the next one on its data folder makes of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import processes
from tests.service.master.accounts import calls_of, rows, stage_of
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
SOME = [BOUNDARIES[place] for place in (0, 1, 3, 5, 9, 13, 18, 22, 25, 31, 36, 41, 44, 47, 50, 51)]


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

    async def start(self, data_dir: Path, kill: tuple[int, str] | None = None) -> Life:
        return await self.lives.start(data_dir, self.nodes, kill=kill)

    async def quiet(self) -> None:
        """Until the node has let go of the calls of a dead master."""
        await self.standin.until(lambda s: all(one.outcome != "running" for one in s.log))

    def calls(self) -> list[CallRecord]:
        return [one for one in self.standin.log if one.kind == "chat"]


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


async def _dies_and_resumes(place: Place, boundary: tuple[int, str]) -> None:
    data_dir = place.fresh()
    life = await place.start(data_dir, boundary)
    assert await ask(life.url, QUESTION, key="k") is None
    assert (await place.lives.ended()).exit_code == KILLED
    assert len(life.commits) >= boundary[0]
    await place.quiet()
    committed = rows(data_dir)
    stored = [row["id"] for row in rows(data_dir, "SELECT id FROM sessions")] if committed else []
    before = len(place.calls())

    life = await place.start(data_dir)
    session = await ask(life.url, QUESTION, key="k")  # the key attaches to the session that was there
    assert session is not None
    _is_whole(session)
    assert not stored or stored == [session["id"]]
    attempts = rows(data_dir)
    _lost_nothing(committed, attempts)
    decided = ("done", "failed", "restarted")
    again = Counter(
        (stage_of(one), one.model) for one in place.calls()[before:] if one.outcome != "cancelled"
    )
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
        (stage_of(one), one.model, one.prompt_eval_count or 0, one.eval_count or 0)
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


@pytest.mark.long
@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda one: f"{one[1]}-{one[0]}")
async def test_a_master_killed_at_any_commit_ends_its_session_whole(
    place: Place, boundary: tuple[int, str]
) -> None:
    await _dies_and_resumes(place, boundary)
