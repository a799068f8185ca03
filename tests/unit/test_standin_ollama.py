"""The stand-in keeps to the wire description and its faults are what they say, seen through a real socket."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import Fault, Reply, StandInModel, StandInOllama, StandInProcess
from tests.standin.schema import instance_of

QUESTION = [{"role": "user", "content": "why is the sky blue"}]
BALLOT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rankings": {
            "type": "array",
            "minItems": 3,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "label": {"enum": ["A", "B", "C"]},
                    "reasoning": {"type": "string", "maxLength": 40},
                    "score": {"type": "integer", "minimum": 1, "maximum": 10},
                },
                "required": ["label", "reasoning", "score"],
            },
        }
    },
    "required": ["rankings"],
}


@pytest.fixture
async def server() -> AsyncIterator[StandInOllama]:
    async with StandInOllama(["a", "b"], slots=2) as running:
        yield running


@pytest.fixture
async def client(server: StandInOllama) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(server) as made:
        yield made


def client_of(server: StandInOllama) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=10, limits=limits)


async def chat(client: httpx.AsyncClient, model: str = "a", **fields: Any) -> httpx.Response:
    return await client.post("/api/chat", json={"model": model, "messages": QUESTION, **fields})


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.content.split(b"\n") if line]


def text_of(response: httpx.Response) -> str:
    return "".join(line["message"]["content"] for line in lines(response))


async def raw_chunks(client: httpx.AsyncClient, **fields: Any) -> list[bytes]:
    """The HTTP chunks of one streamed chat, read off the socket without an HTTP client that merges them."""
    url = client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        body = json.dumps({"model": "a", "messages": QUESTION, **fields}).encode()
        head = f"POST /api/chat HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        headers = await reader.readuntil(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in headers
        chunks = []
        while size := int(await reader.readline(), 16):
            chunks.append(await reader.readexactly(size))
            await reader.readexactly(2)
        return chunks
    finally:
        writer.close()
        await writer.wait_closed()


# ---- the wire ----


async def test_a_stream_has_one_flushed_line_per_chunk_and_metrics_only_in_the_last(
    client: httpx.AsyncClient,
) -> None:
    chunks = await raw_chunks(client)
    assert all(chunk.count(b"\n") == 1 and chunk.endswith(b"\n") for chunk in chunks)
    first, last = json.loads(chunks[0]), json.loads(chunks[-1])
    assert list(first) == ["model", "created_at", "message", "done"]
    assert list(last) == [
        *("model", "created_at", "message", "done", "done_reason", "total_duration", "load_duration"),
        *("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"),
    ]
    assert last["eval_count"] == len(chunks) - 1
    assert last["prompt_eval_count"] == 5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z", first["created_at"])


async def test_the_requested_spelling_of_a_model_is_echoed_and_found_without_tag_or_case(
    client: httpx.AsyncClient,
) -> None:
    response = await chat(client, "A:Latest", stream=False)
    assert response.json()["model"] == "A:Latest"
    assert not response.content.endswith(b"\n")


async def test_go_escapes_are_on_the_wire_and_next_line_stays_raw(server: StandInOllama) -> None:
    server.set_model(StandInModel("a", reply="<b>&\u2028\u0085"))
    async with client_of(server) as client:
        content = (await chat(client)).content
    assert b"\\u003cb\\u003e\\u0026" in content
    assert b"\\u2028" in content
    assert "\u0085".encode() in content
    assert "\u2028".encode() not in content


async def test_headers_wait_for_the_first_token(server: StandInOllama, client: httpx.AsyncClient) -> None:
    server.add_faults(Fault("stall", after_tokens=0))
    headers = asyncio.create_task(client.send(stream_request(client), stream=True))
    await server.until(lambda s: s.counters.in_flight.get("a") == 1)
    assert not headers.done()
    headers.cancel()
    await asyncio.gather(headers, return_exceptions=True)
    await server.until(lambda s: s.counters.cancelled == 1)


def stream_request(client: httpx.AsyncClient, model: str = "a", **fields: Any) -> httpx.Request:
    return client.build_request("POST", "/api/chat", json={"model": model, "messages": QUESTION, **fields})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/api/chat", b"", 400, "missing request body"),
        (
            "POST",
            "/api/chat",
            b"{b",
            400,
            "invalid character 'b' looking for beginning of object key string",
        ),
        ("POST", "/api/chat", b'{"model": "a", "mess', 400, "unexpected EOF"),
        ("POST", "/api/chat", {"messages": []}, 400, "model is required"),
        ("POST", "/api/chat", {"model": "x"}, 404, "model 'x' not found"),
        ("POST", "/api/chat", {"model": "!!"}, 400, "invalid model name"),
        ("POST", "/api/generate", {"prompt": "p"}, 404, "model '' not found"),
        (
            "POST",
            "/api/embed",
            {"model": "x", "input": "p"},
            404,
            'model "x" not found, try pulling it first',
        ),
        ("POST", "/api/embed", {"model": "a", "input": [1]}, 400, "invalid input type"),
        ("POST", "/api/show", {"model": "x"}, 404, "model 'x:latest' not found"),
        ("DELETE", "/api/delete", {"model": "x"}, 404, "model 'x' not found"),
        (
            "POST",
            "/api/chat",
            {"model": "e", "messages": QUESTION},
            400,
            '"e" does not support chat',
        ),
        (
            "POST",
            "/api/chat",
            {"model": "a", "messages": QUESTION, "think": True},
            400,
            '"a" does not support thinking',
        ),
        (
            "POST",
            "/api/chat",
            {"model": "a", "messages": QUESTION, "options": {"num_ctx": "big"}},
            500,
            'option "num_ctx" must be of type integer',
        ),
        (
            "POST",
            "/api/chat",
            {"model": "a", "messages": QUESTION, "format": "xml"},
            500,
            'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
        ),
        (
            "POST",
            "/api/chat",
            {"model": "a", "messages": QUESTION, "keep_alive": "10"},
            400,
            'time: missing unit in duration "10"',
        ),
    ],
)
async def test_the_error_matrix_is_ollamas(method: str, path: str, body: Any, status: int, text: str) -> None:
    async with (
        StandInOllama(["a", StandInModel("e", capabilities=("embedding",))]) as server,
        client_of(server) as client,
    ):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await client.request(method, path, content=content)
    assert (response.status_code, response.json()) == (status, {"error": text})
    assert response.headers["content-type"] == "application/json; charset=utf-8"


async def test_unknown_paths_wrong_methods_and_foreign_hosts_are_answered_as_gin_does(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/nope")).text == "404 page not found"
    assert (await client.get("/api/chat")).status_code == 405
    assert (await client.get("/api/tags", headers={"Host": "evil.example"})).status_code == 403
    assert (await client.get("/api/tags", headers={"Origin": "http://evil.example"})).content == b""
    assert (await client.get("/")).text == "Ollama is running"
    assert (await client.head("/")).status_code == 200


async def test_empty_messages_load_and_unload_in_one_json_object(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    loaded = await client.post("/api/chat", json={"model": "a"})
    assert loaded.json()["done_reason"] == "load"
    assert "total_duration" not in loaded.json()
    assert server.loaded == ["a"]
    unloaded = await client.post("/api/generate", json={"model": "a", "keep_alive": 0})
    assert unloaded.json()["done_reason"] == "unload"
    assert server.loaded == []


async def test_generate_returns_the_context_unless_raw(client: httpx.AsyncClient) -> None:
    body = {"model": "a", "prompt": "one two", "stream": False}
    full = (await client.post("/api/generate", json=body)).json()
    assert len(full["context"]) == full["prompt_eval_count"] + full["eval_count"]
    assert "context" not in (await client.post("/api/generate", json={**body, "raw": True})).json()


async def test_thinking_comes_first_and_can_be_switched_off(server: StandInOllama) -> None:
    server.set_model(StandInModel("t", thinking=True, reply=Reply("an answer", thinking="so so")))
    async with client_of(server) as client:
        told = lines(await chat(client, "t"))
        assert [line["message"].get("thinking") for line in told] == ["so", " so", None, None, None]
        assert told[-1]["eval_count"] == 4
        assert "thinking" not in (await chat(client, "t", think=False, stream=False)).json()["message"]


async def test_old_messages_are_dropped_silently_and_truncate_false_refuses(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "old " * 30},
        {"role": "user", "content": "new question"},
    ]
    options = {"num_ctx": 16}
    fits = await chat(client, messages=messages, options=options, stream=False)
    assert fits.json()["prompt_eval_count"] == 4
    assert server.log[-1].dropped_messages == 1
    refused = await chat(client, messages=messages, options=options, truncate=False)
    inner = json.loads(refused.json()["error"])["error"]
    assert (refused.status_code, inner["n_prompt_tokens"], inner["n_ctx"]) == (400, 34, 16)
    assert refused.headers["content-type"] == "application/json"


async def test_num_predict_cuts_with_length_and_stop_strings_with_stop(client: httpx.AsyncClient) -> None:
    cut = (await chat(client, stream=False, options={"num_predict": 3})).json()
    assert (cut["done_reason"], cut["eval_count"]) == ("length", 3)
    stopped = (await chat(client, stream=False, options={"stop": ["answers"]})).json()
    assert (stopped["done_reason"], stopped["message"]["content"].strip()) == ("stop", "a")


async def test_openai_streams_role_first_and_usage_before_the_end(client: httpx.AsyncClient) -> None:
    body = {"model": "a", "messages": QUESTION, "stream": True, "stream_options": {"include_usage": True}}
    response = await client.post("/v1/chat/completions", json=body)
    events = [event.removeprefix("data: ") for event in response.text.strip().split("\n\n")]
    chunks = [json.loads(event) for event in events[:-1]]
    assert events[-1] == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 2
    missing = await client.post("/v1/chat/completions", json={**body, "model": "x"})
    assert missing.json()["error"]["type"] == "not_found_error"


async def test_an_error_after_the_start_is_lost_in_openais_dialect(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    server.add_faults(Fault("error_line", after_tokens=2))
    body = {"model": "a", "messages": QUESTION, "stream": True}
    text = (await client.post("/v1/chat/completions", json=body)).text
    assert "[DONE]" not in text
    assert json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["model"] == ""


async def test_embeddings_are_unit_vectors_and_near_for_shared_words(client: httpx.AsyncClient) -> None:
    texts = ["a red fox", "the red fox", "quarterly tax report"]
    response = await client.post("/api/embed", json={"model": "a", "input": texts})
    fox, same, tax = response.json()["embeddings"]
    assert math.isclose(sum(x * x for x in fox), 1, rel_tol=1e-5)
    near, far = (sum(x * y for x, y in zip(fox, other, strict=True)) for other in (same, tax))
    assert near > far
    assert (await client.post("/api/embed", json={"model": "a", "input": ""})).json()["embeddings"] == []


async def test_a_pull_reports_progress_and_an_unknown_model_ends_in_an_error_line() -> None:
    registry = [StandInModel("new", size=1000)]
    async with (
        StandInOllama(registry=registry, pull_ms=120) as server,
        client_of(server) as client,
    ):
        told = lines(await client.post("/api/pull", json={"model": "new"}))
        assert told[0] == {"status": "pulling manifest"}
        assert re.fullmatch("pulling [0-9a-f]{12}", told[1]["status"])
        assert "completed" not in told[1]
        assert [line["completed"] for line in told if "completed" in line] == [500, 1000]
        assert told[-1] == {"status": "success"}
        assert (await client.get("/api/tags")).json()["models"][0]["name"] == "new:latest"
        unknown = await client.post("/api/pull", json={"model": "none"})
        assert unknown.status_code == 200
        assert lines(unknown)[-1] == {"error": "pull model manifest: file does not exist"}
        assert (await client.request("DELETE", "/api/delete", json={"model": "new"})).content == b""
        assert (await client.get("/api/tags")).json() == {"models": []}


# ---- answers ----


async def test_a_ballot_ranks_each_label_once_and_is_the_same_each_time(client: httpx.AsyncClient) -> None:
    first = json.loads(text_of(await chat(client, format=BALLOT)))
    assert [entry["label"] for entry in first["rankings"]] == ["A", "B", "C"]
    assert all(1 <= entry["score"] <= 10 and len(entry["reasoning"]) <= 40 for entry in first["rankings"])
    assert json.loads(text_of(await chat(client, format=BALLOT))) == first
    assert json.loads(text_of(await chat(client, "b", format=BALLOT))) != first


@given(
    seed=st.text(max_size=8),
    low=st.integers(-50, 50),
    width=st.integers(0, 30),
    least=st.integers(0, 20),
    more=st.integers(0, 40),
)
def test_an_instance_stays_within_its_bounds(seed: str, low: int, width: int, least: int, more: int) -> None:
    schema = {
        "$defs": {"note": {"type": "string", "minLength": least, "maxLength": least + more}},
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": low, "maximum": low + width},
            "x": {"type": "number", "exclusiveMinimum": low, "maximum": low + 1},
            "note": {"$ref": "#/$defs/note"},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
            "pair": {"prefixItems": [{"const": "l"}, {"const": "r"}], "items": False},
            "list": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
        },
        "required": ["n", "note"],
    }
    made = instance_of(schema, seed)
    assert low <= made["n"] <= low + width
    assert low < made["x"] <= low + 1
    assert least <= len(made["note"]) <= least + more
    assert made["maybe"] in (True, False)
    assert made["pair"] == ["l", "r"]
    assert 2 <= len(made["list"]) <= 4


async def test_replies_can_be_a_list_for_subsequent_calls_or_a_function(server: StandInOllama) -> None:
    server.set_model(StandInModel("a", reply=["one", "two"]))
    server.set_model(StandInModel("b", reply=lambda request: f"{len(request['messages'])} message"))
    async with client_of(server) as client:
        assert [text_of(await chat(client)) for _ in range(3)] == ["one", "two", "two"]
        assert text_of(await chat(client, "b")) == "1 message"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_takes_its_tokens_times_without_drift(stream: bool) -> None:
    model = StandInModel("a", answer_tokens=40, token_ms=5, first_token_ms=20, prompt_tokens_per_s=100)
    async with StandInOllama([model]) as server, client_of(server) as client:
        last = lines(await chat(client, stream=stream))[-1]
        call = server.log[0]
    assert call.started_ms is not None
    assert call.first_token_ms is not None
    assert call.finished_ms is not None
    assert last["prompt_eval_duration"] == pytest.approx(70e6, rel=0.01)
    # Never early; how late is the machine's affair, and a sleep per token would be late by far more than one.
    assert last["eval_duration"] >= 199e6
    assert call.finished_ms - call.started_ms >= 269
    assert call.first_token_ms - call.started_ms >= 74


async def test_duration_ms_spreads_one_total_over_the_tokens() -> None:
    model = StandInModel("a", answer_tokens=7, duration_ms=70)
    async with StandInOllama([model]) as server, client_of(server) as client:
        last = lines(await chat(client))[-1]
    assert last["eval_count"] == 7
    assert 69e6 <= last["eval_duration"]


async def test_a_shared_prefix_costs_no_prompt_time_where_the_model_caches() -> None:
    model = StandInModel("a", prompt_tokens_per_s=1000, cache_prefix=True)
    async with StandInOllama([model]) as server, client_of(server) as client:
        shared = "word " * 40
        spent = []
        for last in ("one two", "three four"):
            messages = [{"role": "user", "content": shared + last}]
            spent.append(lines(await chat(client, messages=messages))[-1])
    assert [last["prompt_eval_count"] for last in spent] == [42, 42]
    assert [last["prompt_eval_duration"] for last in spent] == pytest.approx([42e6, 2e6])


async def test_generations_that_share_an_engine_slow_each_other_down() -> None:
    model = StandInModel("a", answer_tokens=10, duration_ms=50)
    async with StandInOllama([model], slots=2, shared_speed=1.0) as server, client_of(server) as client:
        alone = lines(await chat(client))[-1]["eval_duration"]
        together = await asyncio.gather(*(chat(client, stream=stream) for stream in (True, False)))
    assert alone >= 49e6
    assert max(lines(response)[-1]["eval_duration"] for response in together) >= 75e6


# ---- scheduling ----


async def test_no_more_run_than_there_are_slots_and_they_run_in_order(server: StandInOllama) -> None:
    server.set_model(StandInModel("a", duration_ms=10))
    async with client_of(server) as client:
        responses = await asyncio.gather(*(chat(client, stream=False) for _ in range(7)))
    assert {response.status_code for response in responses} == {200}
    assert server.counters.peak_in_flight == {"a": 2}
    calls = sorted(server.log, key=lambda call: call.loaded_ms or 0)
    started = [call.started_ms or 0 for call in calls]
    assert started == sorted(started)


async def test_a_load_shows_in_load_duration_and_happens_once(server: StandInOllama) -> None:
    server.set_model(StandInModel("a", load_ms=40))
    async with client_of(server) as client:
        first, second = [(await chat(client, stream=False)).json() for _ in range(2)]
    assert first["load_duration"] >= 40e6 > second["load_duration"]
    assert (server.counters.loads, server.counters.reloads) == (1, 0)


async def test_a_changed_num_ctx_reloads_and_the_automatic_value_does_not(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    for options in ({}, {"num_ctx": 4096}, {"num_ctx": 8192}, {"num_ctx": 8192, "temperature": 1}):
        await chat(client, options=options)
    assert (server.counters.loads, server.counters.reloads) == (2, 1)
    assert (await client.get("/api/ps")).json()["models"][0]["context_length"] == 8192


async def test_only_a_request_that_needs_a_load_meets_a_full_queue() -> None:
    slow = [StandInModel(name, load_ms=60_000) for name in ("x", "y", "z")]
    models = [StandInModel("hot"), *slow]
    async with StandInOllama(models, max_queue=1) as server, client_of(server) as client:
        await chat(client, "hot")
        loading = asyncio.create_task(chat(client, "x"))
        await server.until(lambda s: s.scheduler.loading == "x")
        queued = asyncio.create_task(chat(client, "y"))
        await server.until(lambda s: s.scheduler.queued_loads == 1)
        busy = await chat(client, "z")
        assert busy.status_code == 503
        assert busy.json()["error"].startswith("server busy, please try again.  maximum")
        assert (await chat(client, "hot")).status_code == 200
        for task in (loading, queued):
            task.cancel()
        await asyncio.gather(loading, queued, return_exceptions=True)
        await server.until(lambda s: s.counters.cancelled == 2)
        await server.until(lambda s: s.counters.aborted_loads == 1)
        assert server.counters.loads == 1


async def test_an_idle_model_is_evicted_and_a_busy_one_awaited() -> None:
    async with StandInOllama(["a", "b", "c"], max_loaded=2) as server, client_of(server) as client:
        await chat(client, "a")
        server.add_faults(Fault("stall", model="b", after_tokens=1))
        held = asyncio.create_task(chat(client, "b"))
        await server.until(lambda s: s.counters.in_flight.get("b"))
        await chat(client, "c")
        assert server.loaded == ["b", "c"]
        assert server.counters.evictions == 1
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)


async def test_keep_alive_zero_unloads_after_the_request(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    await chat(client, keep_alive=0)
    await server.until(lambda s: s.loaded == [])
    await chat(client, keep_alive=-1)
    assert server.loaded == ["a"]


# ---- disconnects ----


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_that_leaves_cancels_its_generation_and_frees_the_slot(stream: bool) -> None:
    async with StandInOllama([StandInModel("a", duration_ms=60_000)]) as server, client_of(server) as client:
        call = asyncio.create_task(chat(client, stream=stream))
        waiting = asyncio.create_task(chat(client, stream=stream))
        await server.until(lambda s: s.counters.waiting.get("a") == 1)
        for task in (waiting, call):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await server.until(lambda s: s.counters.cancelled == 2 and not s.counters.in_flight["a"])
        assert {record.outcome for record in server.log} == {"cancelled"}
        assert all(record.eval_count is None and record.cancelled_ms for record in server.log)
        assert server.counters.waiting == {"a": 0}


async def test_dropped_connections_end_calls_as_cut_and_a_deaf_server_can_hear_again(
    server: StandInOllama,
) -> None:
    server.set_model(StandInModel("a", duration_ms=60_000))
    async with client_of(server) as client:
        call = asyncio.create_task(chat(client))
        await server.until(lambda s: s.counters.in_flight.get("a") == 1)
        await server.stop_accepting()
        assert server.drop_all_connections() == 1
        with pytest.raises(httpx.TransportError):
            await call
        with pytest.raises(httpx.ConnectError):
            await client.get("/api/version")
        await server.resume_accepting()
        assert (await client.get("/api/version")).status_code == 200
    assert server.log[0].outcome == "cut"


# ---- faults ----


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (Fault("status", status=502, text="bad luck"), 502, "bad luck"),
        (Fault("busy"), 503, "maximum pending requests exceeded"),
        (Fault("out_of_memory"), 500, "requires more system memory"),
        (Fault("runner_died"), 500, "has unexpectedly stopped"),
        (Fault("error_line", after_tokens=0, text="early"), 500, "early"),
    ],
)
async def test_a_failure_before_the_first_token_has_its_real_status_and_strikes_once(
    server: StandInOllama, client: httpx.AsyncClient, fault: Fault, status: int, words: str
) -> None:
    server.add_faults(fault)
    failed = await chat(client)
    assert failed.status_code == status
    assert words in failed.json()["error"]
    assert (await chat(client)).status_code == 200
    assert [record.outcome for record in server.log] == ["error", "done"]


async def test_a_fault_can_skip_calls_and_be_kept_to_ballots(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    server.add_faults(Fault("prose", has_format=True, skip=1))
    answers = [text_of(await chat(client, format=BALLOT)) for _ in range(3)]
    assert answers[0] == answers[2]
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(answers[1])
    assert server.pending_faults == []


@pytest.mark.parametrize(
    ("kind", "outcome"), [("error_line", "error"), ("no_done", "no_done"), ("whitespace", "no_done")]
)
async def test_a_stream_can_end_without_done(
    server: StandInOllama, client: httpx.AsyncClient, kind: str, outcome: str
) -> None:
    server.add_faults(Fault(kind, after_tokens=3))
    told = lines(await chat(client))
    assert not any(line.get("done") for line in told)
    assert ("error" in told[-1]) == (kind == "error_line")
    assert server.log[0].outcome == outcome
    assert server.log[0].eval_count is None
    assert server.log[0].tokens_sent == (34 if kind == "whitespace" else 3)


@pytest.mark.parametrize("reset", [True, False])
async def test_a_cut_ends_in_the_middle_of_a_line(
    server: StandInOllama, client: httpx.AsyncClient, reset: bool
) -> None:
    server.add_faults(Fault("cut", after_tokens=2, reset=reset))
    received = bytearray()

    async def read() -> None:
        async with client.stream("POST", "/api/chat", json={"model": "a", "messages": QUESTION}) as response:
            async for chunk in response.aiter_raw():
                received.extend(chunk)

    with pytest.raises(httpx.TransportError):
        await read()
    assert received.count(b"\n") == 2
    assert not received.endswith(b"\n")
    assert server.log[0].outcome == "cut"
    await server.until(lambda s: s.counters.in_flight["a"] == 0)


async def test_a_stall_in_mid_stream_lasts_until_the_caller_leaves(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    server.add_faults(Fault("stall", after_tokens=2), Fault("stall", after_tokens=1, skip=1, stall_ms=20))
    async with client.stream("POST", "/api/chat", json={"model": "a", "messages": QUESTION}) as response:
        received = response.aiter_lines()
        assert [json.loads(await anext(received))["done"] for _ in range(2)] == [False, False]
        assert server.counters.in_flight == {"a": 1}
    await server.until(lambda s: s.counters.cancelled == 1)
    assert lines(await chat(client))[-1]["done"] is True


async def test_an_endless_generation_ends_with_its_caller_or_with_num_predict(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    server.add_faults(Fault("endless"), Fault("endless", skip=1, obey_num_predict=True))
    options = {"num_predict": 50}
    seen = 0
    async with client.stream(
        "POST", "/api/chat", json={"model": "a", "messages": QUESTION, "options": options}
    ) as response:
        async for _ in response.aiter_lines():
            seen += 1
            if seen == 60:
                break
    await server.until(lambda s: s.counters.cancelled == 1)
    last = lines(await chat(client, options=options))[-1]
    assert (last["done_reason"], last["eval_count"]) == ("length", 50)


async def test_an_answer_can_arrive_in_any_number_of_writes(
    server: StandInOllama, client: httpx.AsyncClient
) -> None:
    plain = text_of(await chat(client))
    server.add_faults(Fault("one_write"), Fault("split_lines", skip=1), Fault("split_multibyte", skip=2))
    at_once, in_thirds, in_bytes = [await raw_chunks(client) for _ in range(3)]
    assert len(at_once) == 1
    assert len(in_thirds) == 3 * at_once[0].count(b"\n")
    with pytest.raises(UnicodeDecodeError):
        [chunk.decode() for chunk in in_bytes]
    said = [
        "".join(json.loads(x)["message"]["content"] for x in b"".join(c).splitlines())
        for c in (at_once, in_thirds)
    ]
    assert said == [plain, plain]


async def test_the_odd_but_legal_endings_occur(server: StandInOllama, client: httpx.AsyncClient) -> None:
    plain = await chat(client)
    server.add_faults(
        *(Fault("no_prompt_eval_count"), Fault("no_final_newline", skip=1), Fault("content_in_done", skip=2)),
        *(Fault("raw_separators", skip=3), Fault("empty", skip=4), Fault("length", skip=5, after_tokens=2)),
    )
    uncounted, unended, tailed, raw, empty, cut = [await chat(client) for _ in range(6)]
    assert "prompt_eval_count" not in lines(uncounted)[-1]
    assert not unended.content.endswith(b"\n")
    assert lines(tailed)[-1]["message"]["content"] == lines(plain)[-2]["message"]["content"]
    assert text_of(tailed) == text_of(plain)
    assert lines(tailed)[-1]["eval_count"] == lines(plain)[-1]["eval_count"]
    assert "\u0085".encode() in raw.content
    assert "\u2028".encode() in raw.content
    assert [line["done"] for line in lines(empty)] == [True]
    assert "eval_count" not in lines(empty)[-1]
    assert (lines(cut)[-1]["done_reason"], len(lines(cut))) == ("length", 3)


async def test_management_routes_can_fail_too(server: StandInOllama, client: httpx.AsyncClient) -> None:
    server.add_faults(Fault("status", endpoint="tags", text="disk gone"), Fault("cut", endpoint="version"))
    assert (await client.get("/api/tags")).json() == {"error": "disk gone"}
    assert (await client.get("/api/tags")).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/api/version")
    with pytest.raises(ValueError, match="endless cannot happen on ps"):
        Fault("endless", endpoint="ps")


async def test_embeddings_can_fail_too(server: StandInOllama, client: httpx.AsyncClient) -> None:
    server.add_faults(Fault("runner_died", endpoint="embed"), Fault("cut", endpoint="embed", skip=1))
    body = {"model": "a", "input": ["one", "two"]}
    assert (await client.post("/api/embed", json=body)).status_code == 500
    assert server.loaded == []
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/api/embed", json=body)
    assert (await client.post("/api/embed", json=body)).json()["prompt_eval_count"] == 2
    assert [record.outcome for record in server.log] == ["error", "cut", "done"]


# ---- control ----


async def test_the_log_tells_what_was_reported_and_control_works_over_http(client: httpx.AsyncClient) -> None:
    faults = [{"kind": "cut", "model": "b", "after_tokens": 1}]
    assert (await client.post("/__control__/faults", json=faults)).json() == {"added": 1}
    assert (await client.post("/__control__/faults", json={"kind": "hiccup"})).status_code == 400
    last = lines(await chat(client, format=BALLOT))[-1]
    with pytest.raises(httpx.RemoteProtocolError):
        await chat(client, "b")
    done, cut = (await client.get("/__control__/log")).json()
    assert (done["eval_count"], done["prompt_eval_count"]) == (last["eval_count"], last["prompt_eval_count"])
    assert (done["outcome"], done["format_present"], done["messages"]) == ("done", True, QUESTION)
    assert (cut["outcome"], cut["faults"], cut["eval_count"]) == ("cut", ["cut"], None)
    assert (await client.get("/__control__/counters")).json()["peak_in_flight"] == {"a": 1, "b": 1}
    await client.post("/__control__/reset")
    assert (await client.get("/__control__/log")).json() == []
    assert (await client.get("/__control__/nothing")).status_code == 404


def test_as_a_process_it_says_its_address_obeys_control_and_stops() -> None:
    config = {"models": [{"name": "m", "reply": ["first", "second"]}], "faults": [{"kind": "busy"}]}
    with StandInProcess(config) as server, httpx.Client(base_url=server.base_url, trust_env=False) as client:
        body = {"model": "m", "messages": QUESTION, "stream": False}
        assert client.post("/api/chat", json=body).status_code == 503
        assert client.post("/api/chat", json=body).json()["message"]["content"] == "first"
        server.add_faults({"kind": "empty"})
        assert client.post("/api/chat", json=body).json()["message"]["content"] == ""
        assert [call["outcome"] for call in server.log()] == ["error", "done", "done"]
        assert server.counters()["loads"] == 1
    assert server.returncode == 0
