"""Two engines on one node: people on one, background calls on the other, and what is done when that dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from common.errors import CouncilError
from common.protocol import Message
from master.background.calls import BackgroundCalls
from master.background.job import BackgroundCall
from master.cluster import background_route
from master.cluster.attempt import Limits
from master.cluster.background_route import Policy
from master.cluster.calls import Call, SilentWatcher
from master.cluster.dispatch import Dispatcher
from master.cluster.registry import Registry
from tests import processes
from tests.processes import Program
from tests.service.master.rig import model
from tests.standin import StandInModel, StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
BACKGROUND = "llama3.2:3b"
LIMITS = Limits(60.0, 60.0, 30.0, 10.0, 60.0, no_node_s=5.0)
SLOTS = 2


@dataclass
class TwoEngines:
    """A node `pc2` with a main and a background engine, and a master that has it."""

    main: StandInOllama
    background: StandInOllama
    node: Program
    master: Program
    client: httpx.AsyncClient
    folder: Path
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def kill_background(self) -> None:
        await self.background.stop_accepting()
        self.background.drop_all_connections()

    async def heal(self) -> None:
        await self.background.resume_accepting()
        for engine in (self.main, self.background):
            engine.reset()
        self.main.set_model(model("m"))
        self.background.set_model(model(BACKGROUND))
        await self.node_knows()
        await self.told(lambda told: bool(told["state"] == "connected"))

    async def node_knows(self) -> None:
        """What it last heard of the engine is a second old at most, and may be that it was down."""
        async with processes.client(self.node) as client, asyncio.timeout(30):
            while (await client.get("/health")).json()["checks"]["background_engine"] != "connected":  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def told(self, holds: Callable[[dict[str, Any]], bool], within_s: float = 30.0) -> dict[str, Any]:
        """What the master tells of the engine, once that holds."""
        async with asyncio.timeout(within_s):
            while True:
                told: dict[str, Any] = (await self.client.get("/api/background/engine")).json()
                if holds(told):
                    return told
                await asyncio.sleep(0.05)

    async def flex(self, name: str, **more: Any) -> httpx.Response:
        body = {"model": name, "messages": [{"role": "user", "content": "Why?"}], "service_tier": "flex"}
        return await self.client.post(CHAT, json={**body, **more})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TwoEngines]:
    folder = tmp_path_factory.mktemp("two-engines")
    async with (
        AsyncExitStack() as stack,
        StandInOllama([model("m"), model("big", size=9_000_000)], slots=SLOTS) as main,
        StandInOllama([model("m"), model(BACKGROUND)], slots=SLOTS, registry=["qwen2.5:1.5b"]) as background,
        processes.node(
            folder / "pc2",
            name="pc2",
            ollama=main.base_url,
            env={"OLLAMA_BACKGROUND_BASE_URL": background.base_url, "OLLAMA_NUM_PARALLEL": str(SLOTS)},
        ) as node,
        processes.master(folder / "master", nodes={"pc2": node.url}) as master,
        processes.client(master) as client,
    ):
        yield TwoEngines(main, background, node, master, client, folder, stack)


@pytest_asyncio.fixture(loop_scope="module")
async def two(shared: TwoEngines) -> AsyncIterator[TwoEngines]:
    await shared.told(lambda told: bool(told["state"] == "connected"))
    yield shared
    await shared.heal()


@asynccontextmanager
async def calling(
    *nodes: Program, policy: Policy = "main_with_warning", wanted: str | None = None
) -> AsyncIterator[BackgroundCalls]:
    """Background calls over the nodes, from this process; the dispatcher is its `_dispatcher`."""
    registry = Registry(heartbeat_s=0.1, connect_timeout_s=5.0)
    dispatcher = Dispatcher(registry, LIMITS, max_waiting=100)
    calls = BackgroundCalls(dispatcher, policy=policy, model=wanted)
    try:
        for number, node in enumerate(nodes, 2):
            registry.add(node.url, name=f"pc{number}")
        await registry.settled(10.0)
        await goes_to(calls, "background")
        yield calls
    finally:
        await registry.close()


@asynccontextmanager
async def beats(calls: BackgroundCalls) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """What waits for the next heartbeat."""
    beat = asyncio.Event()
    calls._registry.listeners.append(beat.set)

    async def wait() -> None:
        beat.clear()
        await beat.wait()

    yield wait
    calls._registry.listeners.remove(beat.set)


async def goes_to(calls: BackgroundCalls, target: str) -> None:
    """Wait until calls go there."""
    async with beats(calls) as beat, asyncio.timeout(30):
        while calls.status()["target"] != target:
            await beat()


def ask(model_name: str | None = None) -> BackgroundCall:
    return BackgroundCall((Message("user", "Why?"),), model_name, expected_tokens=40)


async def within(seconds: float, work: asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(seconds):
        return await work


# -- as people see it, through the master --------------------------------------------------------------------


async def test_models_of_the_background_engine_alone_are_shown_and_not_offered(two: TwoEngines) -> None:
    await two.told(lambda told: told["state"] == "connected")
    for path, rows, name in (("/v1/models", "data", "id"), ("/api/council/models", "models", "name")):
        names = [one[name].removesuffix(":latest") for one in (await two.client.get(path)).json()[rows]]
        assert BACKGROUND not in names
        assert names.count("m") == 1
    found = (await two.client.get("/health/models")).json()["models"]
    shown = {(one["name"].removesuffix(":latest"), one["engine"]) for one in found}
    assert shown == {("m", "main"), ("big", "main"), ("m", "background"), (BACKGROUND, "background")}
    worker = (await two.client.get("/api/cluster/workers/pc2")).json()
    assert {one["engine"] for one in worker["models"] if one["name"] == BACKGROUND} == {"background"}
    assert {one["name"]: one["slots"] for one in worker["engines"]} == {"main": SLOTS, "background": SLOTS}
    refused = await two.client.post(
        "/api/council/sessions", json={"question": "?", "selected_agents": [BACKGROUND]}
    )
    assert refused.json()["code"] == "model_unavailable"
    body = {"model": BACKGROUND, "messages": [{"role": "user", "content": "Why?"}]}
    chat = await two.client.post(CHAT, json=body)
    assert chat.status_code == 409
    assert "flex" in chat.json()["error"]["message"]


async def test_a_model_of_the_background_engine_alone_is_there_for_background_work(two: TwoEngines) -> None:
    for use, there in (("background", True), ("council", False)):
        answer = await two.client.get("/api/council/models/recommended", params={"for": use})
        installed = {one["name"] for one in answer.json()["models"] if one["installed"]}
        assert (BACKGROUND in installed) is there


async def test_a_flex_call_runs_on_the_background_engine_and_says_so(two: TwoEngines) -> None:
    await two.told(lambda told: told["target"] == "background")
    for name in (BACKGROUND, "m"):
        answer = await two.flex(name)
        assert (answer.status_code, answer.json()["service_tier"]) == (200, "flex"), answer.text
    assert len(two.background.calls(kind="chat")) == 2
    assert two.main.calls(kind="chat") == []
    plain = await two.flex("m", service_tier="auto")
    assert plain.json()["service_tier"] == "default"
    assert len(two.main.calls(kind="chat")) == 1
    async with two.client.stream(
        "POST",
        CHAT,
        json={
            "model": "m",
            "messages": [{"role": "user", "content": "Why?"}],
            "service_tier": "flex",
            "stream": True,
        },
    ) as streamed:
        text = (await streamed.aread()).decode()
    assert text.count('"service_tier":"flex"') > 1
    assert text.rstrip().endswith("[DONE]")
    assert len(two.background.calls(kind="chat")) == 3


async def test_a_model_that_only_the_main_engine_has_runs_there_in_class_background(two: TwoEngines) -> None:
    await two.told(lambda told: told["target"] == "background")
    assert (await two.flex("big")).status_code == 200
    assert len(two.main.calls(model="big", kind="chat")) == 1


async def test_a_model_is_fetched_by_the_background_engine_and_used_there(two: TwoEngines) -> None:
    pull = {"model": "qwen2.5:1.5b", "background": True}
    lines = (await two.client.post("/api/council/models/pull", json=pull)).text.splitlines()
    assert json.loads(lines[-1])["status"] == "success"
    told = await two.told(lambda told: "qwen2.5:1.5b" in told["engines"][0]["models"])
    assert told["model"]["name"] == BACKGROUND
    assert "qwen2.5:1.5b" not in (await two.client.get("/api/council/models")).text
    assert (await two.client.get("/api/background/status")).json()["engine"]["engines"] == told["engines"]
    nowhere = await two.client.post("/api/council/models/pull", json={**pull, "embedded": True})
    assert nowhere.status_code == 422


async def test_a_dead_background_engine_is_told_everywhere_and_its_calls_run_on_main(two: TwoEngines) -> None:
    await two.told(lambda told: told["target"] == "background")
    assert (await two.client.get("/health")).json()["checks"]["background_engine"] == "connected"
    await two.kill_background()
    told = await two.told(lambda told: told["target"] == "main")
    assert (told["state"], told["policy"]) == ("down", "main_with_warning")
    assert "runs on" in told["warning"] or "run on the main engine" in told["warning"]
    assert told["engines"][0]["state"] == "down"
    assert told["model"]["name"].startswith("m")
    assert BACKGROUND in told["model"]["note"]
    health = (await two.client.get("/health")).json()
    assert (health["status"], health["checks"]["background_engine"]) == ("degraded", "down")
    assert 'council_background_engine{state="down"} 1.0' in (await two.client.get("/metrics")).text
    answer = await two.flex("m")
    assert answer.status_code == 200
    assert len(two.main.calls(model="m", kind="chat")) == 1
    gone = await two.flex(BACKGROUND)
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "model_unavailable")
    chat = await two.flex("m", service_tier="default")
    assert chat.status_code == 200
    assert two.master.log.read_text().count("its calls run on the main engine") == 1
    await two.heal()
    back = await two.told(lambda told: told["state"] == "connected")
    assert back["target"] == "main"
    assert "minute" in back["warning"]


# -- the calls of jobs ---------------------------------------------------------------------------------------


async def test_a_job_names_no_model_and_gets_the_background_one(two: TwoEngines) -> None:
    async with calling(two.node) as calls:
        answer = await calls.generate(ask())
        assert (answer.engine, answer.model, answer.node) == ("background", BACKGROUND, "pc2")
        assert calls.status()["model"] == {"name": BACKGROUND, "wanted": BACKGROUND, "note": None}
    async with calling(two.node, wanted="m") as calls:
        assert (await calls.generate(ask())).model.startswith("m")
    assert len(two.background.calls(kind="chat")) == 2


async def test_an_engine_that_dies_in_the_middle_of_a_call_costs_the_call_nothing(two: TwoEngines) -> None:
    two.background.set_model(StandInModel(BACKGROUND, token_ms=50, answer_tokens=100, resident=True))
    async with calling(two.node) as calls, asyncio.TaskGroup() as group:
        job = group.create_task(calls.generate(ask()))
        await two.background.until(lambda engine: engine.counters.in_flight, 10)
        await two.kill_background()
        answer = await within(30, job)
        assert answer.engine == "main"
        assert calls.status()["target"] == "main"


async def test_the_engine_is_used_again_without_a_restart(
    two: TwoEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_route, "DWELL_S", 1.0)
    async with calling(two.node) as calls:
        await two.kill_background()
        assert (await calls.generate(ask())).engine == "main"
        await two.heal()
        await goes_to(calls, "background")
        assert (await calls.generate(ask())).engine == "background"
        assert calls.status()["warning"] is None


async def test_under_the_policy_wait_a_call_waits_until_the_engine_is_back(two: TwoEngines) -> None:
    async with calling(two.node, policy="wait") as calls, asyncio.TaskGroup() as group:
        await two.kill_background()
        job = group.create_task(calls.generate(ask()))
        await goes_to(calls, "wait")
        assert not job.done()
        with pytest.raises(CouncilError) as late:
            await calls.run(Call("late", "", (Message("user", "Why?"),)), SilentWatcher(), wait_s=0.2)
        assert late.value.code == "queue_timeout"
        await two.heal()
        assert (await within(30, job)).engine == "background"
        # Those that wait are bounded, as all who wait are.
        await two.kill_background()
        await goes_to(calls, "wait")
        calls._dispatcher.lanes.max_waiting = 2
        held = group.create_task(calls.generate(ask()))
        async with beats(calls) as beat, asyncio.timeout(5):
            while calls.status()["waiting"] == 0:
                await beat()
        with pytest.raises(CouncilError) as full:
            await calls.generate(ask())
        assert (full.value.code, full.value.status) == ("queue_full", 503)
        held.cancel()
    assert two.main.calls(kind="chat") == []


async def test_under_the_policy_fail_a_call_fails_and_says_why(two: TwoEngines) -> None:
    async with calling(two.node, policy="fail") as calls:
        await two.kill_background()
        with pytest.raises(CouncilError) as failed:
            await calls.generate(ask())
        assert failed.value.code == "engine_unavailable"
        assert "policy `fail`" in failed.value.detail
    assert two.main.calls(kind="chat") == []


async def test_the_background_engine_serves_while_the_main_one_is_down(two: TwoEngines) -> None:
    async with calling(two.node) as calls:
        node = calls._registry.get("pc2")
        await two.main.stop_accepting()
        two.main.drop_all_connections()
        try:
            async with beats(calls) as beat, asyncio.timeout(20):
                while node.state != "unhealthy":
                    await beat()
            assert (await calls.generate(ask())).engine == "background"
        finally:
            await two.main.resume_accepting()
        async with beats(calls) as beat, asyncio.timeout(20):
            while not node.answers:
                await beat()


async def test_a_full_background_engine_takes_no_slot_from_people_and_is_not_pre_empted(
    two: TwoEngines,
) -> None:
    two.background.set_model(StandInModel(BACKGROUND, token_ms=20, answer_tokens=60, resident=True))
    async with calling(two.node) as calls, asyncio.TaskGroup() as group:
        jobs = [group.create_task(calls.generate(ask())) for _ in range(SLOTS + 1)]
        await two.background.until(lambda engine: engine.counters.peak_in_flight == {BACKGROUND: SLOTS}, 10)
        chats = [
            group.create_task(
                calls._dispatcher.run(Call(f"chat{n}", "m", (Message("user", "Why?"),)), SilentWatcher())
            )
            for n in range(SLOTS)
        ]
        for chat in chats:
            await within(10, chat)
        assert not any(job.done() for job in jobs)
        for job in jobs:
            assert (await within(30, job)).engine == "background"
    assert [one.outcome for one in two.background.calls(kind="chat")] == ["done"] * (SLOTS + 1)


async def test_any_node_with_a_background_engine_may_serve(two: TwoEngines, tmp_path: Path) -> None:
    async with (
        StandInOllama([model(BACKGROUND)], slots=SLOTS) as other,
        processes.node(
            tmp_path / "pc3",
            name="pc3",
            ollama=two.main.base_url,
            env={"OLLAMA_BACKGROUND_BASE_URL": other.base_url},
        ) as pc3,
        calling(two.node, pc3) as calls,
    ):
        await two.kill_background()
        assert (await within(30, asyncio.create_task(calls.generate(ask())))).node == "pc3"
        assert calls.status()["target"] == "background"
    assert two.main.calls(kind="chat") == []


class ScriptedGate:
    """Open or not as a whole, with nodes that are busy with something else."""

    def __init__(self, *closed: str) -> None:
        self.opened = asyncio.Event()
        self.opened.set()
        self.closed = frozenset(closed)
        self.asked_for: list[set[str]] = []

    async def passed_on(self, nodes: Callable[[], Collection[str]]) -> None:
        self.asked_for.append(set(nodes()))
        await self.opened.wait()

    def closed_nodes(self) -> frozenset[str]:
        return self.closed


@pytest.mark.parametrize("busy", ["pc2", "pc3"])
async def test_a_job_goes_to_the_idle_node_while_another_is_busy(
    two: TwoEngines, tmp_path: Path, busy: str
) -> None:
    env = {"OLLAMA_BACKGROUND_BASE_URL": two.background.base_url}
    async with (
        processes.node(tmp_path / "pc3", name="pc3", ollama=two.main.base_url, env=env) as other,
        calling(two.node, other) as calls,
    ):
        calls.gate = gate = ScriptedGate(busy)
        for _ in range(3):
            answer = await within(30, asyncio.create_task(calls.generate(ask())))
            assert {answer.node, busy} == {"pc2", "pc3"}
        assert gate.asked_for[-1] == {"pc2", "pc3"}


async def test_a_call_of_a_job_waits_for_the_gate_and_a_persons_does_not(two: TwoEngines) -> None:
    async with calling(two.node) as calls, asyncio.TaskGroup() as group:
        calls.gate = gate = ScriptedGate()
        gate.opened.clear()
        job = group.create_task(calls.generate(ask()))
        answer = await calls.run(Call("flex", "m", (Message("user", "Why?"),)), SilentWatcher())
        assert answer.engine == "background"
        assert not job.done()
        gate.opened.set()
        await within(10, job)
