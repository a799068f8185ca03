"""A whole small cluster for the tests: stand-in engine, nodes and master, each on a real socket."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from master.cluster import canary
from tests import processes
from tests.processes import Program
from tests.standin import StandInModel, StandInOllama

SEATS = ("m1", "m2", "m3")
CHAIRMAN = "boss"
MODELS = (*SEATS, "m4", "m5", CHAIRMAN, "deputy")
ENDED = frozenset({"completed", "failed", "cancelled"})
# Deadlines short enough for tests and long enough for two busy cores.
QUICK: Mapping[str, str] = {"COUNCIL_NO_NODE_TIMEOUT_S": "2"}


@dataclass
class Rig:
    """One master with its nodes (by name) before one stand-in."""

    folder: Path
    standin: StandInOllama
    nodes: dict[str, Program]
    master: Program
    client: httpx.AsyncClient
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _read: dict[Path, int] = field(default_factory=dict)

    # -- asking -------------------------------------------------------------------------------------------

    async def open(self, *, seats: Sequence[Any] = SEATS, **fields: Any) -> dict[str, Any]:
        """Open a session and leave it running."""
        body = {
            "question": "Which is the better of the two?",
            "selected_agents": list(seats),
            "chairman": CHAIRMAN,
        }
        response = await self.client.post("/api/council/sessions", json={**body, **fields})
        assert response.status_code == 201, response.text
        opened: dict[str, Any] = response.json()
        return opened

    async def council(
        self, *, seats: Sequence[Any] = SEATS, within_s: float = 30.0, **fields: Any
    ) -> dict[str, Any]:
        """Hold a council to its end; the session as the API shows it, checked by `assert_honest`."""
        opened = await self.open(seats=seats, **fields)
        return await self.ended(opened["id"], within_s)

    async def ended(self, session_id: str, within_s: float = 30.0) -> dict[str, Any]:
        """The session once its last event was sent."""
        async with asyncio.timeout(within_s):
            async for _ in self.events(session_id):
                continue
        return await self.get(session_id)

    async def get(self, session_id: str) -> dict[str, Any]:
        response = await self.client.get(f"/api/council/sessions/{session_id}")
        assert response.status_code == 200, response.text
        session: dict[str, Any] = response.json()
        if session["state"] in ENDED:
            assert_honest(session)
        return session

    async def events(self, session_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Every event of a session to its end, over SSE."""
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        address = f"/api/council/sessions/{session_id}/events"
        async with self.client.stream("GET", address, headers=headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def all_events(self, session_id: str, within_s: float = 30.0) -> list[dict[str, Any]]:
        async with asyncio.timeout(within_s):
            return [event async for event in self.events(session_id)]

    async def reach(
        self, session_id: str, wanted: Callable[[dict[str, Any]], bool], within_s: float = 20.0
    ) -> dict[str, Any]:
        """The first event that is wanted. Fails when the session ends without it."""
        async with asyncio.timeout(within_s):
            async for event in self.events(session_id):
                if wanted(event):
                    return event
        raise AssertionError("the session ended before the event that was waited for")

    async def writing(self, session_id: str, stage: str) -> dict[str, Any]:
        """Wait until a call of the stage writes."""
        return await self.reach(
            session_id, lambda event: event["type"] == "call.delta" and event["stage"] == stage
        )

    # -- checks -------------------------------------------------------------------------------------------

    @property
    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))

    def assert_no_traceback(self) -> None:
        """No program has left one in its log since the last time this was asked."""
        for log in self.logs:
            data = log.read_bytes()
            text = data[self._read.get(log, 0) :].decode(errors="replace")
            self._read[log] = len(data)
            found = [line for line in text.splitlines() if "Traceback" in line or "Task exception" in line]
            assert not found, f"{log.name}: {found[0][:300]} … {found[0][-700:]}"

    async def another_node(self, name: str, *arguments: str) -> Program:
        """Start a node; the master knows it only if its address is one that it knew."""
        program = await self.stack.enter_async_context(
            processes.node(self.folder / name, *arguments, name=name, ollama=self.standin.base_url)
        )
        self.nodes[name] = program
        return program

    async def forget(self) -> None:
        """Make the stand-in as new; the master keeps what it learned."""
        self.standin.reset()
        for name in MODELS:
            self.standin.set_model(model(name))
        await self.settle()

    async def settle(self, within_s: float = 12.0) -> None:
        """Wait until every node is healthy and lists its models."""
        async with asyncio.timeout(within_s):
            while True:
                workers = (await self.client.get("/api/cluster/workers")).json()["workers"]
                if all(one["state"] == "healthy" and one["models"] for one in workers):
                    return
                await asyncio.sleep(0.1)


def model(name: str, **changes: Any) -> StandInModel:
    """A loaded model that writes a short answer quickly."""
    return StandInModel(name, **{"token_ms": 1, "resident": True, "size": 1_000_000, **changes})


@asynccontextmanager
async def running(
    folder: Path,
    *,
    models: Sequence[StandInModel] | None = None,
    nodes: Sequence[str] = ("pc2",),
    slots: int = 8,
    env: Mapping[str, str] | None = None,
    node_env: Mapping[str, str] | None = None,
) -> AsyncIterator[Rig]:
    """Start everything; at the end stop it and see that no program left a traceback in its log."""
    async with AsyncExitStack() as stack:
        standin = await stack.enter_async_context(
            StandInOllama(models or [model(name) for name in MODELS], slots=slots, max_loaded=len(MODELS))
        )
        settings = {"OLLAMA_NUM_PARALLEL": str(slots), "COUNCIL_NODE_DRAIN_TIMEOUT": "3", **(node_env or {})}
        started = {
            name: await stack.enter_async_context(
                processes.node(folder / name, name=name, ollama=standin.base_url, env=settings)
            )
            for name in nodes
        }
        master = await stack.enter_async_context(
            processes.master(
                folder / "master",
                nodes={name: program.url for name, program in started.items()},
                env={**QUICK, **(env or {})},
            )
        )
        client = await stack.enter_async_context(processes.client(master))
        rig = Rig(folder, standin, started, master, client, stack)
        await rig.settle()
        yield rig
    rig.assert_no_traceback()


# -- what every session that has ended owes its reader ----------------------------------------------------


def assert_honest(session: dict[str, Any]) -> None:
    """The parts of a session agree with each other, and no answer is empty or made up."""
    agents = {one["agent_id"]: one for one in session["agents"]}
    answered = [name for name, one in agents.items() if one["opinion"] is not None]
    assert session["state"] in ENDED
    assert session["completed_at"] is not None
    if session["state"] != "cancelled":
        assert set(session["missing_agents"]) == set(agents) - set(answered)
        for one in agents.values():
            assert one["state"] == ("done" if one["agent_id"] in answered else "failed")
            assert one["error"] is not None or one["agent_id"] in answered
    for ballot in session["ballots"]:
        judged = [one["agent_id"] for one in ballot["rankings"]]
        if ballot["abstained"]:
            assert judged == []
            assert ballot["reason"]
        else:
            assert sorted(judged) == sorted(set(answered) - {ballot["reviewer"]})
            assert all(type(one["score"]) is int and 1 <= one["score"] <= 10 for one in ballot["rankings"])
    if session["state"] == "completed":
        assert session["result"] in ("full", "degraded", "single")
        assert session["error"] is None
        if session["result"] == "single":
            assert session["synthesis"] is None
            assert session["top_answer"] == answered[0]
        else:
            assert session["synthesis"]["text"].strip()
        if session["result"] == "full":
            assert session["missing_agents"] == []
            assert not any(ballot["abstained"] for ballot in session["ballots"])
    else:
        assert session["result"] is None
    if session["state"] == "failed":
        assert session["error"]["code"]
        assert session["error"]["detail"]
    _assert_sums(session)


def _assert_sums(session: dict[str, Any]) -> None:
    usage = session["token_usage"]
    stages = [usage[name] for name in ("stage1_opinions", "stage2_review", "stage3_synthesis")]
    for figure in ("prompt_tokens", "completion_tokens", "tokens"):
        total = f"total_{figure}"
        assert usage[total] == sum(stage[total] for stage in stages if stage)
        for stage in stages:
            if stage:
                name = "total_tokens" if figure == "tokens" else figure
                assert stage[total] == sum(one[name] for one in stage["by_model"].values())


def assert_full(session: dict[str, Any]) -> None:
    """All seats answered and voted, and the chosen chairman concluded."""
    assert (session["state"], session["result"]) == ("completed", "full"), session
    assert session["synthesis"]["kind"] == "chairman"


def reported_tokens(standin: StandInOllama) -> tuple[int, int]:
    """Prompt and completion tokens that the engine reported to its callers."""
    done = [
        one
        for one in standin.log
        if one.kind == "chat"
        and one.outcome == "done"
        and one.messages
        # The master's canary is no call of any session.
        and one.messages[-1].get("content") != canary.PROMPT
    ]
    return sum(one.prompt_eval_count or 0 for one in done), sum(one.eval_count or 0 for one in done)


# -- ballots ----------------------------------------------------------------------------------------------

_ANSWER = re.compile(r"\[ANSWER (\w) (\w+)\]\n(.*?)\n\[END \1 \2\]", re.DOTALL)


def labelled_answers(request: Mapping[str, Any]) -> dict[str, str]:
    """label → answer, as the prompt of a review shows them."""
    text = request["messages"][-1]["content"]
    return {label: answer for label, _, answer in _ANSWER.findall(text)}


def ballot(votes: Sequence[tuple[str, Any]]) -> str:
    """The reply of a reviewer with these (label, score) pairs."""
    rankings = [{"label": label, "reasoning": f"on {label}", "score": score} for label, score in votes]
    return json.dumps({"rankings": rankings})
