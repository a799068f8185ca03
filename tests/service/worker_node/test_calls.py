"""One call on a node: its place in the queue, its signs of life, and what a hang-up leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.protocol import Delta, GenerateRequest, Queued, Started, StreamMessage, Waiting
from tests.haste import soon
from tests.service.worker_node.nodes import Node, done_of, error_of, kinds, node_in_process, text_of
from tests.standin.faults import Fault
from tests.standin.model import StandInModel
from tests.standin.ollama import StandInOllama
from worker_node.engines.base import ModelLimits
from worker_node.engines.ollama import OllamaEngine

Stream = AsyncGenerator[StreamMessage, None]
WORDS = "one two three four five six"


@pytest.fixture
async def ollama() -> AsyncIterator[StandInOllama]:
    models = [
        StandInModel("m:latest", resident=True, reply=WORDS, token_ms=2),
        StandInModel("cold:latest", reply=WORDS, load_ms=400),
        StandInModel("other:latest", reply=WORDS),
    ]
    async with StandInOllama(models, slots=4) as server:
        yield server


@pytest.fixture
async def node(ollama: StandInOllama, tmp_path: Path) -> AsyncIterator[Node]:
    async with node_in_process(
        tmp_path,
        engine="ollama",
        ollama_base_url=ollama.base_url,
        num_parallel=2,
        max_loaded_models=2,
        max_queue=3,
        drain_timeout_s=0.3,
    ) as running:
        yield running


def endless(ollama: StandInOllama, times: int = 1) -> None:
    ollama.add_faults(Fault("endless", times=times))


async def started(messages: Stream) -> Stream:
    """The stream, read up to its first text."""
    async for message in messages:
        if isinstance(message, Delta):
            return messages
    raise AssertionError("the call ended without a word")


async def test_the_engine_never_sees_more_calls_than_its_slots(ollama: StandInOllama, tmp_path: Path) -> None:
    async with node_in_process(
        tmp_path, engine="ollama", ollama_base_url=ollama.base_url, num_parallel=2, max_queue=64
    ) as node:
        answers = await asyncio.gather(*[node.whole(model="m", prompt=str(i)) for i in range(20)])
    assert {answer.status_code for answer in answers} == {200}
    assert ollama.counters.peak_in_flight["m:latest"] == 2
    assert ollama.counters.waiting.get("m:latest", 0) == 0


async def test_that_a_call_runs_is_told_before_the_engine_has_said_a_word(
    node: Node, ollama: StandInOllama
) -> None:
    ollama.set_model(StandInModel("m:latest", resident=True, reply=WORDS, first_token_ms=60_000))

    async def told_s() -> float:
        asked_at = time.perf_counter()
        messages = node.stream(model="m", prompt="x")
        assert await anext(messages) == Started()
        took_s = time.perf_counter() - asked_at
        await messages.aclose()
        return took_s

    await soon(0.9, told_s)  # the first sign of life comes after a second


async def test_a_waiting_call_is_told_its_position_at_once_and_at_each_change(
    node: Node, ollama: StandInOllama
) -> None:
    endless(ollama, times=2)
    running = [await started(node.stream(model="m", prompt="x")) for _ in range(2)]
    first = node.stream(model="m", prompt="first")
    assert await anext(first) == Queued(1)
    second = node.stream(model="m", prompt="second")
    assert await anext(second) == Queued(2)
    await running[0].aclose()
    assert await anext(second) == Queued(1)
    assert text_of([message async for message in first]) == WORDS
    await running[1].aclose()
    assert text_of([message async for message in second]) == WORDS


async def test_a_full_queue_is_a_503_that_says_when_to_come_again(node: Node, ollama: StandInOllama) -> None:
    endless(ollama, times=2)
    running = [await started(node.stream(model="m", prompt="x")) for _ in range(2)]
    waiting = [node.stream(model="m", prompt="x") for _ in range(3)]
    for stream in waiting:
        await anext(stream)
    for mode in (True, False):
        body = {"model": "m", "prompt": "x", "stream": mode}
        response = await node.client.post("/api/generate", json=body)
        assert (response.status_code, response.json()["code"]) == (503, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
    metrics = (await node.client.get("/metrics")).text
    assert 'council_node_calls_in_flight{engine="main"} 2.0' in metrics
    assert 'council_node_calls_queued{engine="main"} 3.0' in metrics
    for stream in [*waiting, *running]:
        await stream.aclose()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_cancels_the_call_down_to_the_engine(
    node: Node, ollama: StandInOllama, stream: bool
) -> None:
    async def hang_up() -> float:
        before = ollama.counters.cancelled
        endless(ollama)
        call = asyncio.create_task(
            node.client.post("/api/generate", json={"model": "m", "prompt": "x", "stream": stream})
        )
        await ollama.until(lambda server: server.counters.in_flight.get("m:latest") == 1)
        hung_up_at = time.perf_counter()
        call.cancel()
        await ollama.until(lambda server: server.counters.cancelled == before + 1)
        return time.perf_counter() - hung_up_at

    await soon(0.25, hang_up)
    assert (await node.whole(model="m", prompt="x")).status_code == 200
    metrics = (await node.client.get("/metrics")).text
    assert f'outcome="cancelled"}} {ollama.counters.cancelled}.0' in metrics


async def test_a_hang_up_while_the_engine_is_silent_cancels_too(node: Node, ollama: StandInOllama) -> None:
    ollama.add_faults(Fault("stall"))
    call = asyncio.create_task(node.whole(model="m", prompt="x"))
    await ollama.until(lambda server: server.calls(kind="chat"))
    call.cancel()
    await ollama.until(lambda server: server.counters.cancelled == 1)


async def test_a_hang_up_while_waiting_frees_the_place(node: Node, ollama: StandInOllama) -> None:
    endless(ollama, times=2)
    running = [await started(node.stream(model="m", prompt="x")) for _ in range(2)]
    leaving = node.stream(model="m", prompt="x")
    assert await anext(leaving) == Queued(1)
    staying = node.stream(model="m", prompt="x")
    assert await anext(staying) == Queued(2)
    await leaving.aclose()
    assert await anext(staying) == Queued(1)
    for stream in [staying, *running]:
        await stream.aclose()


@pytest.mark.parametrize("path", ["/api/generate", "/api/models/load"])
async def test_a_load_goes_on_when_its_caller_hangs_up(node: Node, ollama: StandInOllama, path: str) -> None:
    ollama.set_model(StandInModel("cold:latest", reply=WORDS, load_ms=3000))
    call = asyncio.create_task(node.client.post(path, json={"model": "cold", "prompt": "x"}))
    await ollama.until(lambda server: server.calls(model="cold:latest") or server.calls(model="cold"))
    call.cancel()
    await ollama.until(lambda server: "cold:latest" in server.loaded)
    assert ollama.counters.aborted_loads == 0
    assert done_of(await node.lines(model="cold", prompt="x")).latency.load_ms < 2000
    assert ollama.counters.loads == 1


async def test_calls_to_a_cold_model_load_it_once(node: Node, ollama: StandInOllama) -> None:
    first, second = await asyncio.gather(*[node.lines(model="cold", prompt="x") for _ in range(2)])
    assert ollama.counters.loads == 1
    assert done_of(first).latency.load_ms >= 350
    assert done_of(second).latency.load_ms >= 350


async def test_a_silent_second_is_bridged_by_a_sign_of_life(node: Node, ollama: StandInOllama) -> None:
    ollama.set_model(StandInModel("slow:latest", reply="word", load_ms=1300, first_token_ms=1200))
    messages = await node.lines(model="slow", prompt="x")
    assert [one.phase for one in messages if isinstance(one, Waiting)] == ["load", "prompt"]
    assert kinds(messages) == ["waiting", "started", "waiting", "delta", "done"]


async def test_a_deadline_ends_a_generation_and_its_work_in_the_engine(
    node: Node, ollama: StandInOllama
) -> None:
    endless(ollama)
    problem = error_of(await node.lines(model="m", prompt="x", deadline_ms=200))
    assert (problem["code"], problem["model"]) == ("generation_timeout", "m:latest")
    await ollama.until(lambda server: server.counters.cancelled == 1)


async def test_a_deadline_while_waiting_or_loading_says_which(node: Node, ollama: StandInOllama) -> None:
    assert error_of_response(await node.whole(model="cold", prompt="x", deadline_ms=50)) == "load_timeout"
    endless(ollama, times=2)
    running = [await started(node.stream(model="m", prompt="x")) for _ in range(2)]
    assert error_of_response(await node.whole(model="m", prompt="x", deadline_ms=50)) == "queue_timeout"
    for stream in running:
        await stream.aclose()


def error_of_response(response: httpx.Response) -> str:
    assert response.status_code == 504
    code: str = response.json()["code"]
    return code


async def test_a_batch_answers_in_order_with_failures_in_their_place(
    node: Node, ollama: StandInOllama
) -> None:
    requests: list[dict[str, Any]] = [{"model": "m", "prompt": str(i)} for i in range(12)]
    requests[3] = {"model": "absent", "prompt": "x"}
    requests[5] = {"model": "m", "prompt": "x", "options": {"num_ctx": 1}}
    response = await node.client.post("/api/generate/batch", json={"requests": requests})
    results = response.json()["results"]
    assert [results[3]["error"]["code"], results[5]["error"]["code"]] == [
        "model_not_found",
        "invalid_request",
    ]
    assert [one["text"] for i, one in enumerate(results) if i not in (3, 5)] == [WORDS] * 10
    assert ollama.counters.peak_in_flight["m:latest"] == 2, "a batch waits for slots like everybody"


async def test_a_hang_up_on_a_batch_cancels_all_of_it(node: Node, ollama: StandInOllama) -> None:
    endless(ollama, times=2)
    requests = [{"model": "m", "prompt": "x"}] * 4
    call = asyncio.create_task(node.client.post("/api/generate/batch", json={"requests": requests}))
    await ollama.until(lambda server: server.counters.in_flight.get("m:latest") == 2)
    call.cancel()
    await ollama.until(lambda server: server.counters.cancelled == 2)
    assert len(ollama.calls(kind="chat")) == 2, "those that waited never reached the engine"


async def test_a_batch_too_long_is_refused(node: Node) -> None:
    response = await node.client.post(
        "/api/generate/batch", json={"requests": [{"model": "m", "prompt": "x"}] * 257}
    )
    assert response.status_code == 422


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "malformed_body"),
        (b"{", 400, "malformed_body"),
        (b'{"model":"m","prompt":"\xff"}', 400, "malformed_body"),
        (b'{"model":"m","prompt":"x","options":{"stop":' + b"[" * 100_000, 400, "malformed_body"),
        (b"[]", 422, "invalid_request"),
        (b'{"prompt":"x"}', 422, "invalid_request"),
        (b'{"model":"","prompt":"x"}', 422, "invalid_request"),
        (b'{"model":"m","prompt":"x","class":"urgent"}', 422, "invalid_request"),
        (b'{"model":"m","prompt":"x","deadline_ms":0}', 422, "invalid_request"),
        (b'{"model":"m","prompt":"x","format":"xml"}', 422, "invalid_request"),
        (b'{"model":"m","prompt":"' + b"x" * (9 * 1024 * 1024) + b'"}', 413, "payload_too_large"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_body_that_cannot_be_served_is_a_problem_that_says_why(
    node: Node, content: bytes, status: int, code: str
) -> None:
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as client:
        response = await client.post("/api/generate", content=content)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


async def test_unknown_fields_are_ignored(node: Node) -> None:
    assert (await node.whole(model="m", prompt="x", invented=1)).status_code == 200


async def test_the_tag_latest_and_the_case_may_be_left_to_the_node(node: Node) -> None:
    for name in ("m", "m:latest", "M:Latest"):
        assert (await node.whole(model=name, prompt="x")).status_code == 200


async def test_what_runs_may_end_and_the_rest_is_told_that_the_node_is_stopping(
    node: Node, ollama: StandInOllama
) -> None:
    endless(ollama, times=2)
    running = await started(node.stream(model="m", prompt="x"))
    other = await started(node.stream(model="m", prompt="x"))
    waiting = node.stream(model="m", prompt="x")
    await anext(waiting)
    node.stop.set()
    assert error_of([message async for message in waiting])["code"] == "node_draining"
    refused = await node.whole(model="m", prompt="x")
    assert (refused.status_code, refused.json()["code"]) == (503, "node_draining")
    assert (await node.client.get("/health")).status_code == 503
    for stream in (running, other):
        assert error_of([message async for message in stream])["code"] == "node_draining"
    await node.serving
    await ollama.until(lambda server: server.counters.cancelled == 2)


async def test_ids_go_on_to_the_engine(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = OllamaEngine(name="main", base_url=f"http://127.0.0.1:{port}", limits=ModelLimits())
    await engine.start()
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    request = GenerateRequest(model="m", prompt="x", request_id="call-7", traceparent=trace)
    with pytest.raises(Exception, match="does not answer"):
        await anext(engine.generate(request))
    await engine.stop()
    server.close()
    head = heads[0].decode().lower()
    assert "x-request-id: call-7" in head
    assert f"traceparent: 00-{'a' * 32}-" in head
    assert trace not in head, "the engine's span is a child of the caller's"


async def test_a_kept_connection_that_the_engine_just_closed_is_no_failure() -> None:
    """The second request on a connection gets no answer, as when the engine's idle timeout strikes."""
    connections: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            body = b'{"version":"1"}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    engine = OllamaEngine(name="main", base_url=url, limits=ModelLimits())
    await engine.start()
    assert [(await engine.info()).status for _ in range(2)] == ["connected"] * 2
    await engine.stop()
    server.close()
    assert len(connections) == 2
    await asyncio.gather(*filter(None, connections))


async def test_the_second_request_on_a_connection_is_not_slower(node: Node) -> None:
    """Nagle's algorithm against delayed acknowledgements would cost it 40 ms."""

    async def usual_s() -> float:
        spent = []
        for _ in range(6):
            began = time.perf_counter()
            await node.client.get("/metrics")
            spent.append(time.perf_counter() - began)
        return sorted(spent[1:])[2]

    await soon(0.03, usual_s)


async def test_the_background_engine_is_an_engine_of_its_own(tmp_path: Path) -> None:
    async with (
        StandInOllama([StandInModel("m:latest", resident=True)]) as main,
        StandInOllama([StandInModel("m:latest", resident=True)]) as background,
        node_in_process(
            tmp_path,
            engine="ollama",
            ollama_base_url=main.base_url,
            ollama_background_base_url=background.base_url,
        ) as node,
    ):
        await node.whole(model="m", prompt="x", engine="background")
        assert (len(main.calls(kind="chat")), len(background.calls(kind="chat"))) == (0, 1)
        models = (await node.client.get("/health/models")).json()["models"]
        assert {model["engine"] for model in models} == {"main", "background"}
        await background.stop_accepting()
        background.drop_all_connections()
        await asyncio.sleep(1.1)
        health = await node.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        failed = await node.whole(model="m", prompt="x", engine="background")
        assert failed.json()["code"] == "engine_unavailable"


async def test_a_node_without_a_background_engine_says_so(node: Node) -> None:
    response = await node.whole(model="m", prompt="x", engine="background")
    assert (response.status_code, response.json()["code"]) == (503, "engine_unavailable")


async def test_polling_asks_the_engine_at_most_once_a_second(node: Node, ollama: StandInOllama) -> None:
    ollama.add_faults(Fault("status", endpoint="tags", skip=1, times=None))
    for _ in range(10):
        assert (await node.client.get("/health/models")).status_code == 200


async def test_the_health_of_the_machine_is_told(node: Node) -> None:
    system = (await node.client.get("/health/system")).json()
    assert system["memory"]["total"] > 0
    assert system["disk"]["free"] > 0
    assert system["cpu"]["count"] >= 1
    assert "main" in str(system["engines"])


async def test_calls_tokens_and_times_are_counted_when_somebody_looks(node: Node) -> None:
    for number in range(3):
        await node.whole(model="m", prompt=str(number))
    assert (await node.whole(model="unknown", prompt="x")).status_code == 404
    lines = (await node.client.get("/metrics")).text.splitlines()
    labels = 'engine="main",model="m:latest"'
    assert f'council_node_calls_total{{{labels},outcome="ok"}} 3.0' in lines
    assert 'council_node_calls_total{engine="main",model="unknown",outcome="model_not_found"} 1.0' in lines
    assert 'council_node_tokens_total{engine="main",kind="completion",model="m:latest"} 18.0' in lines
    assert f'council_node_latency_seconds_count{{{labels},phase="total"}} 3.0' in lines
