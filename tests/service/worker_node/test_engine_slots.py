"""An Ollama that runs fewer calls at once than its node was told, as it does with its own defaults."""

from __future__ import annotations

import asyncio
from pathlib import Path

from common.protocol import Queued
from tests.service.worker_node.nodes import Node, node_in_process
from tests.standin.model import StandInModel
from tests.standin.ollama import StandInOllama

MODEL = StandInModel("m:latest", resident=True, answer_tokens=10, token_ms=40)


async def slots(node: Node) -> int:
    found: int = (await node.client.get("/health/models")).json()["models"][0]["slots"]
    return found


async def ask(node: Node, times: int) -> None:
    answers = await asyncio.gather(*[node.whole(model="m", prompt="x") for _ in range(times)])
    assert {answer.status_code for answer in answers} == {200}


async def test_a_node_admits_no_more_than_its_ollama_runs_once_calls_have_waited_there(
    tmp_path: Path,
) -> None:
    async with (
        StandInOllama([MODEL], slots=1) as ollama,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=ollama.base_url) as node,
    ):
        assert await slots(node) == 5
        await ask(node, 5)
        await ask(node, 2)
        assert await slots(node) == 1
        for record in ollama.calls():
            record.model = "before"
        await ask(node, 5)
        waits_ms = [one.started_ms - one.loaded_ms for one in ollama.calls(model="m:latest")]  # type: ignore[operator]  # both are set once a call has run
        assert len(waits_ms) == 5
        assert max(waits_ms) < 100, "they waited in the node, which knows who may go first"
        first = node.stream(model="m", prompt="x")
        await anext(first)
        second = node.stream(model="m", prompt="x")
        assert await anext(second) == Queued(1)
        await second.aclose()
        await first.aclose()


async def test_an_ollama_that_was_restarted_with_more_slots_gets_more_calls(tmp_path: Path) -> None:
    async with (
        StandInOllama([MODEL], slots=1) as ollama,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=ollama.base_url, num_parallel=3) as node,
    ):
        await ask(node, 3)
        await ask(node, 2)
        await ask(node, 2)
        assert await slots(node) == 1
        await ollama.stop_accepting()
        ollama.drop_all_connections()
        assert (await node.client.get("/health")).status_code == 503
        ollama.unload("m:latest")
        ollama.set_model(MODEL.with_changes(slots=3, resident=False, answer_tokens=25))
        await ollama.resume_accepting()
        await asyncio.sleep(1.1)  # what the node knows of its engine is a second old at most
        assert (await node.client.get("/health")).status_code == 200
        assert await slots(node) == 2
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(ask(node, 1))
                    await asyncio.sleep(0.3)
        assert await slots(node) == 3
        assert ollama.counters.peak_in_flight["m:latest"] == 3


async def test_families_that_ollama_runs_one_call_of_at_a_time_have_one_slot(tmp_path: Path) -> None:
    families = {"llama": 5, "qwen35": 1, "qwen3vlmoe": 1, "lfm2": 1, "nemotron_h_moe": 1, "mllama": 1}
    models = [StandInModel(f"{family}:latest", family=family, resident=True) for family in families]
    models.append(StandInModel("emb:latest", capabilities=("embedding",)))
    async with (
        StandInOllama(models, slots=5, max_loaded=9) as ollama,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=ollama.base_url) as node,
    ):
        listed = (await node.client.get("/health/models")).json()["models"]
        told = {one["name"].removesuffix(":latest"): one["slots"] for one in listed}
        assert told == {**families, "emb": 1}
        await asyncio.gather(*[node.whole(model="qwen35", prompt="x") for _ in range(4)])
        assert ollama.counters.peak_in_flight["qwen35:latest"] == 1
