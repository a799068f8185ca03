"""Models come to the nodes through the master: on one, on all, from the hub and from Ollama."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests import processes
from tests.hub import FakeHub, serving
from tests.random_weights import write_noise
from tests.standin import StandInModel, StandInOllama

PLACE = "owner/tiny-GGUF/tiny.gguf"
PULL = "/api/council/models/pull"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Cluster:
    client: httpx.AsyncClient
    hub: FakeHub
    standin: StandInOllama
    folder: Path

    async def pull(self, **body: Any) -> list[dict[str, Any]]:
        response = await self.client.post(PULL, json=body)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    async def offered(self) -> dict[str, list[str]]:
        found = (await self.client.get("/api/council/models")).json()["models"]
        return {one["name"]: one["nodes"] for one in found}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    path = tmp_path_factory.mktemp("gguf") / "noise.gguf"
    write_noise(path)
    with serving(FakeHub(files={PLACE: path.read_bytes()})) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Two nodes with the embedded engine and one before an Ollama; a fourth is asleep."""
    folder = tmp_path_factory.mktemp("cluster")
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf")}
    async with AsyncExitStack() as stack:
        standin = await stack.enter_async_context(StandInOllama([StandInModel("m1")]))
        nodes = {
            name: await stack.enter_async_context(processes.node(folder / name, name=name, env=env))
            for name in ("pc1", "pc2")
        }
        ollama = processes.node(folder / "pc3", name="pc3", ollama=standin.base_url)
        nodes["pc3"] = await stack.enter_async_context(ollama)
        urls = {name: node.url for name, node in nodes.items()} | {"asleep": "http://127.0.0.1:9"}
        master = await stack.enter_async_context(processes.master(folder / "master", nodes=urls))
        client = await stack.enter_async_context(processes.client(master))
        found = Cluster(client, hub, standin, folder)
        while set(await found.offered()) < {"practice-owl", "m1:latest"}:
            continue
        yield found


async def test_a_gguf_file_comes_to_every_embedded_node_and_is_offered_at_once(cluster: Cluster) -> None:
    lines = await cluster.pull(model=f"hf:{PLACE}", all=True, embedded=True)
    by_worker = {line["worker"]: line for line in lines}
    assert {name: line["status"] for name, line in by_worker.items()} == {"pc1": "success", "pc2": "success"}
    offered = await cluster.offered()
    assert offered["tiny"] == ["pc1", "pc2"]
    assert "practice-owl" not in offered
    assert (cluster.folder / "pc2" / "models" / "tiny.gguf").is_file()
    assert max(line.get("completed") or 0 for line in lines) == len(cluster.hub.files[PLACE])


async def test_all_nodes_pull_by_their_own_engine_and_a_sleeping_one_is_said(cluster: Cluster) -> None:
    lines = await cluster.pull(model="nonesuch:7b", all=True)
    errors = {line["worker"]: line["error"]["code"] for line in lines if "error" in line}
    assert errors["asleep"] == "node_unreachable"
    assert errors["pc1"] == errors["pc2"] == "model_not_found"
    assert set(errors) == {"asleep", "pc1", "pc2", "pc3"}


async def test_ollama_is_asked_for_its_own_tag(cluster: Cluster) -> None:
    await cluster.pull(model="phi3.5:mini", worker="pc3")
    asked = [call.model for call in cluster.standin.calls(kind="pull")]
    assert asked[-1] == "phi3.5"


async def test_a_gguf_file_is_no_use_to_a_node_before_ollama(cluster: Cluster) -> None:
    refused = await cluster.client.post(PULL, json={"model": "tinyllama", "worker": "pc3", "embedded": True})
    assert (refused.status_code, refused.json()["code"]) == (501, "not_supported")
    both = await cluster.client.post(PULL, json={"model": "tinyllama", "worker": "pc3", "all": True})
    assert both.status_code == 422


async def test_background_models_are_recommended_with_memory_licence_and_default(cluster: Cluster) -> None:
    answer = await cluster.client.get("/api/council/models/recommended", params={"for": "background"})
    found = {one["name"]: one for one in answer.json()["models"]}
    assert set(found) == {"phi3.5", "phi3", "llama3.2:3b", "qwen2.5:1.5b", "gemma2:2b"}
    assert [name for name, one in found.items() if one["default"]] == ["llama3.2:3b"]
    assert all(one["ram"] > one["size"] > 10**8 and one["suits"] and one["licence"] for one in found.values())
    other = await cluster.client.get("/api/council/models/recommended", params={"for": "breakfast"})
    assert other.status_code == 422
