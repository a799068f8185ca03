"""Every fault of an Ollama, injected into the stand-in, arrives as the error that tells what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.worker_node.nodes import Node, done_of, error_of, kinds, node_in_process, text_of
from tests.standin.faults import Fault
from tests.standin.model import Reply, StandInModel
from tests.standin.ollama import StandInOllama

OVERFLOW = (
    '{"error":{"code":400,"message":"request (9 tokens) exceeds the available context size (4 tokens)",'
    '"type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":4}}'
)
WORDS = "one two three four five six"


@pytest.fixture
async def ollama() -> AsyncIterator[StandInOllama]:
    models = [
        StandInModel("m:latest", resident=True, reply=WORDS, token_ms=2),
        StandInModel("cold:latest", reply=WORDS, load_ms=100),
        StandInModel("thinker:latest", resident=True, reply=Reply(WORDS, thinking="hm well"), thinking=True),
        StandInModel("emb:latest", capabilities=("embedding",)),
    ]
    async with StandInOllama(models, slots=2) as server:
        yield server


@pytest.fixture
async def node(ollama: StandInOllama, tmp_path: Path) -> AsyncIterator[Node]:
    async with node_in_process(
        tmp_path, engine="ollama", ollama_base_url=ollama.base_url, num_parallel=2
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("busy"), "engine_busy"),
        (Fault("out_of_memory"), "out_of_memory"),
        (Fault("runner_died"), "engine_failed"),
        (Fault("old_error_line", text="model 'm' not found"), "model_not_found"),
        (Fault("status", status=404, text="model 'm' not found"), "model_not_found"),
        (Fault("status", status=500, text="odd"), "engine_failed"),
        (Fault("status", status=400, text='"m" does not support thinking'), "invalid_request"),
        (
            Fault("status", status=500, text="timed out waiting for llama-server to start - x"),
            "load_timeout",
        ),
        (
            Fault(
                "status",
                status=400,
                text=OVERFLOW,
            ),
            "context_overflow",
        ),
        (Fault("error_line", after_tokens=2), "engine_failed"),
        (
            Fault(
                "error_line", after_tokens=2, text="llama-server chat error: map[code:500 message:x type:y]"
            ),
            "engine_failed",
        ),
        (Fault("no_done", after_tokens=2), "stream_cut"),
        (Fault("cut", after_tokens=2), "stream_cut"),
        (Fault("cut", after_tokens=2, reset=True), "stream_cut"),
        (Fault("cut", after_tokens=0), "stream_cut"),
        (Fault("whitespace", after_tokens=1), "stream_cut"),
        (Fault("garbage_line", after_tokens=2), "engine_failed"),
    ],
    ids=lambda value: f"{value.kind}-{value.after_tokens}" if isinstance(value, Fault) else str(value),
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_fault_of_ollama_becomes_its_error_in_both_modes(
    node: Node, ollama: StandInOllama, fault: Fault, code: str, stream: bool
) -> None:
    ollama.add_faults(fault)
    if stream:
        problem = error_of(await node.lines(model="m", prompt="hi"))
    else:
        response = await node.whole(model="m", prompt="hi")
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == response.status_code
    assert (problem["code"], problem["model"]) == (code, "m:latest")
    assert done_of(await node.lines(model="m", prompt="again")), "the node serves on"


@pytest.mark.parametrize(
    "kind",
    [
        "one_write",
        "split_lines",
        "split_multibyte",
        "no_final_newline",
        "content_in_done",
        "no_prompt_eval_count",
    ],
)
async def test_no_way_of_cutting_a_stream_into_reads_changes_its_text(
    node: Node, ollama: StandInOllama, kind: str
) -> None:
    text = "Größe \u4f60\u597d \U0001f600\U0001f600 naïve — Ende"
    ollama.set_model(StandInModel("m:latest", reply=text))
    ollama.add_faults(Fault(kind))
    messages = await node.lines(model="m", prompt="hi")
    assert text_of(messages) == text
    usage = done_of(messages).token_usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (usage.prompt_tokens == 0) == (kind == "no_prompt_eval_count")


async def test_separators_of_unicode_pass_unharmed(node: Node, ollama: StandInOllama) -> None:
    ollama.add_faults(Fault("raw_separators"))
    messages = await node.lines(model="m", prompt="hi")
    assert "\u0085" in text_of(messages)
    assert "\u2028" in text_of(messages)


async def test_what_one_read_brought_is_one_delta(node: Node, ollama: StandInOllama) -> None:
    ollama.add_faults(Fault("one_write"))
    assert kinds(await node.lines(model="m", prompt="hi")) == ["started", "delta", "done"]


async def test_thinking_is_kept_apart_from_the_answer(node: Node) -> None:
    messages = await node.lines(model="thinker", prompt="hi", think=True)
    assert (text_of(messages, "thinking"), text_of(messages)) == ("hm well", WORDS)
    whole = (await node.whole(model="thinker", prompt="hi", think=True)).json()
    assert (whole["thinking"], whole["text"]) == ("hm well", WORDS)


async def test_usage_and_reason_are_what_the_engine_reported(node: Node, ollama: StandInOllama) -> None:
    ollama.add_faults(Fault("length", after_tokens=3))
    done = done_of(await node.lines(model="m", prompt="a b c"))
    record = ollama.calls(kind="chat")[-1]
    assert done.done_reason == record.done_reason == "length"
    assert done.token_usage.prompt_tokens == record.prompt_eval_count
    assert done.token_usage.completion_tokens == record.eval_count
    assert done.latency.generate_ms > 0
    assert done.latency.total_ms >= done.latency.first_token_ms > 0


async def test_every_request_has_the_same_load_time_options_and_no_silent_truncation(
    node: Node, ollama: StandInOllama
) -> None:
    await node.client.post("/api/models/load", json={"model": "cold"})
    await node.lines(model="cold", prompt="hi", options={"temperature": 0.1}, format="json")
    await node.lines(model="cold", messages=[{"role": "user", "content": "hi"}], system="be kind")
    calls = ollama.calls(model="cold")
    assert {call.options["num_ctx"] for call in calls} == {8192}
    assert all(call.request["truncate"] is False for call in calls if call.messages)
    assert ollama.counters.reloads == 0
    assert ollama.counters.loads == 1
    assert calls[-1].messages == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]


async def test_a_models_own_context_caps_the_nodes(tmp_path: Path) -> None:
    async with (
        StandInOllama([StandInModel("small", context_length=2048)]) as server,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=server.base_url) as node,
    ):
        await node.lines(model="small", prompt="hi")
        assert server.calls(model="small")[-1].options["num_ctx"] == 2048
        models = (await node.client.get("/health/models")).json()["models"]
        assert models[0]["context_length"] == 2048


async def test_old_ollamas_are_described_by_show(tmp_path: Path) -> None:
    async with (
        StandInOllama([StandInModel("small:latest", context_length=2048)], version="0.24.0") as server,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=server.base_url) as node,
    ):
        model = (await node.client.get("/health/models")).json()["models"][0]
        assert (model["context_length"], "completion" in model["capabilities"]) == (2048, True)


async def test_an_ollama_that_is_gone_is_a_503_and_an_unhealthy_node(
    node: Node, ollama: StandInOllama
) -> None:
    await ollama.stop_accepting()
    ollama.drop_all_connections()
    response = await node.whole(model="m", prompt="hi")
    assert (response.status_code, response.json()["code"]) == (503, "engine_unavailable")
    health = await node.client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    assert health.json()["checks"]["engine"] == "disconnected"
    assert (await node.client.get("/health/ollama")).json()["engines"][0]["error"]
    await ollama.resume_accepting()
    await asyncio.sleep(1.1)  # what the node knows of its engine is a second old at most
    assert (await node.client.get("/health")).json()["status"] == "healthy"


async def test_embedding_goes_through_one_slot_and_keeps_the_order(node: Node) -> None:
    async def embed(*texts: str) -> list[list[float]]:
        response = await node.client.post("/api/embed", json={"model": "emb", "input": list(texts)})
        assert response.status_code == 200, response.text
        vectors: list[list[float]] = response.json()["embeddings"]
        return vectors

    both = await embed("one", "two")
    assert [(await embed("one"))[0], (await embed("two"))[0]] == both
    assert await embed() == []


async def test_a_hang_up_cancels_an_embedding_down_to_the_engine(node: Node, ollama: StandInOllama) -> None:
    body = {"model": "emb", "input": ["one", "two"]}
    assert (await node.client.post("/api/embed", json=body)).status_code == 200
    emb = StandInModel("emb:latest", capabilities=("embedding",))
    ollama.set_model(emb.with_changes(first_token_ms=60_000))
    asking = asyncio.create_task(node.client.post("/api/embed", json=body))
    await ollama.until(lambda server: any(server.counters.in_flight.values()))
    waiting = asyncio.create_task(node.client.post("/api/embed", json=body))
    asking.cancel()
    await ollama.until(lambda server: server.calls(kind="embed", outcome="cancelled"))
    ollama.set_model(emb)
    waiting.cancel()
    # Its one slot is free again.
    async with asyncio.timeout(30):
        assert (await node.client.post("/api/embed", json=body)).status_code == 200


async def test_a_pull_tells_its_progress_and_an_unknown_model_is_not_found(tmp_path: Path) -> None:
    async with (
        StandInOllama([], registry=["new"], pull_ms=200) as server,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=server.base_url) as node,
    ):
        missing: Any = await node.client.post("/api/models/pull", json={"model": "nothing"})
        assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")
        response = await node.client.post("/api/models/pull", json={"model": "new", "stream": True})
        assert '"status":"success"' in response.text.splitlines()[-1]
        assert done_of(await node.lines(model="new", prompt="hi"))
