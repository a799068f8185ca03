"""The master stopped by a signal in every stage: exit 0, nothing left behind, the session resumes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import processes
from tests.service.master import rig
from tests.service.master.rig import CHAIRMAN, MODELS, Rig, assert_full, ballot, labelled_answers
from tests.service.master.sockets import watch
from tests.standin import Reply, StandInModel, StandInOllama

STAGES = ("opinions", "review", "synthesis")


def models(slow_from: str) -> list[StandInModel]:
    """Models that answer quickly, and write for half a minute from that stage on."""

    def reply(request: dict[str, Any]) -> Reply | str:
        prompt = request["messages"][-1]["content"]
        stage = "review" if request.get("format") else "synthesis" if "chairman" in prompt else "opinions"
        if stage == slow_from:
            return Reply(tokens=tuple(" on" for _ in range(200)))
        return ballot([(label, 7) for label in labelled_answers(request)]) if stage == "review" else "Well."

    return [rig.model(name, token_ms=150, reply=reply) for name in MODELS]


@asynccontextmanager
async def all_in_one(folder: Path, standin: StandInOllama) -> AsyncIterator[Rig]:
    """A master that keeps a node of its own, as `council up` does."""
    env = {
        "OLLAMA_BASE_URL": standin.base_url,
        "COUNCIL_NODE_ENGINE": "ollama",
        "COUNCIL_NODE_PORT": "0",
        "OLLAMA_NUM_PARALLEL": "8",
    }
    async with processes.master(folder / "master", "--local-node", env=env) as master:
        async with processes.client(master) as client:
            yield Rig(folder, standin, {}, master, client)


@asynccontextmanager
async def next_life(folder: Path, standin: StandInOllama) -> AsyncIterator[Rig]:
    """A master on the same folder, with a node that it knows by its address."""
    async with (
        processes.node(folder / "pc2", name="pc2", ollama=standin.base_url) as node,
        processes.master(folder / "master", nodes={"pc2": node.url}) as master,
        processes.client(master) as client,
    ):
        yield Rig(folder, standin, {"pc2": node}, master, client)


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (signal.SIGINT, "idle"),
        *((signal.SIGTERM, stage) for stage in STAGES),
        (signal.SIGINT, "synthesis"),
    ],
)
async def test_a_signal_ends_master_and_node_in_order_and_the_session_resumes(
    tmp_path: Path, number: signal.Signals, stage: str
) -> None:
    async with StandInOllama(models(stage), slots=8, max_loaded=len(MODELS)) as standin:
        async with all_in_one(tmp_path, standin) as running:
            session_id = ""
            watchers: list[asyncio.Task[Any]] = []
            if stage == "idle":
                await running.settle()
            else:
                session_id = (await running.open())["id"]
                # A watcher and somebody who waits for the end must not hold the program up.
                watchers = [
                    asyncio.create_task(running.all_events(session_id)),
                    asyncio.create_task(
                        running.client.post("/api/council/sessions?wait=true", json={"question": "And?"})
                    ),
                ]
                await running.writing(session_id, stage)
            children = psutil.Process(running.master.pid).children(recursive=True)
            assert len(children) == 1
            began = time.monotonic()
            running.master.process.send_signal(number)
            assert await running.master.wait() == 0
            assert time.monotonic() - began < 10
            _, alive = await asyncio.to_thread(psutil.wait_procs, children, 3)
            assert alive == []
            with contextlib.suppress(Exception):
                await asyncio.gather(*watchers, return_exceptions=True)
            running.assert_no_traceback()
        await standin.until(lambda server: not any(server.counters.in_flight.values()))
        if stage == "idle":
            return
        finished = [one.text for one in standin.calls(kind="chat", outcome="done") if one.messages]
        for name in MODELS:
            standin.set_model(rig.model(name))
        async with next_life(tmp_path, standin) as again:
            session = await again.ended(session_id)
            assert_full(session)
            # What was finished before the signal was kept and not asked for again.
            opinions = [one["opinion"] for one in session["agents"]]
            if stage != "opinions":
                assert set(opinions) <= set(finished)
            await again.settle()
        again.assert_no_traceback()
    assert len(standin.calls(model=CHAIRMAN, kind="chat", outcome="done")) >= 1


async def test_everybody_who_waits_hears_that_the_master_stops(tmp_path: Path) -> None:
    body = {"question": "Which?", "selected_agents": ["m1", "m2"], "chairman": CHAIRMAN}
    chat = {"model": "m3", "messages": [{"role": "user", "content": "hello"}]}
    async with rig.running(tmp_path, models=models("opinions")) as running:
        client = running.client
        waiting = asyncio.create_task(client.post("/api/council/sessions?wait=true&wait_s=60", json=body))
        whole = asyncio.create_task(client.post("/v1/chat/completions", json=chat))
        streamed = asyncio.create_task(client.post("/v1/chat/completions", json={**chat, "stream": True}))
        await running.standin.until(
            lambda server: sum(server.counters.in_flight.values()) == 4 and _all_write(server)
        )
        (listed,) = (await client.get("/api/council/sessions")).json()["sessions"]
        session_id = listed["id"]
        by_sse = asyncio.create_task(running.all_events(session_id))
        by_socket = asyncio.create_task(watch(running.master.url, session_id))
        await running.writing(session_id, "opinions")
        running.master.terminate()

        # The session is not over, and nobody is told that it were: it goes on with the next master.
        answer = await waiting
        assert answer.status_code == 202
        assert answer.json()["state"] == "opinions"
        assert answer.headers["location"].endswith(session_id)
        assert (await by_sse)[-1]["type"] == "call.delta"
        events, code = await by_socket
        assert (events[-1]["type"], code) == ("call.delta", 1012)
        # A chat is over, and says why.
        assert (await whole).status_code == 503
        assert (await whole).json()["error"]["code"] == "node_draining"
        lines = (await streamed).text.strip().splitlines()
        assert '"code":"node_draining"' in lines[-1].replace(" ", "")
        assert await running.master.wait() == 0
        await running.standin.until(lambda server: not any(server.counters.in_flight.values()))


def _all_write(server: StandInOllama) -> bool:
    return all(one.first_token_ms is not None for one in server.calls(kind="chat") if one.messages)
