"""OpenAI-compatible servers as engines: a scripted one for what goes wrong, and the stand-in's `/v1`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.service.worker_node.nodes import Node, done_of, error_of, kinds, node_in_process, text_of
from tests.standin.model import Reply, StandInModel
from tests.standin.ollama import StandInOllama

LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
OVERFLOW = {
    "error": {
        "code": 400,
        "message": "the request exceeds the available context size, try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 9000,
        "n_ctx": 4096,
    }
}


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


FINISH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}})
TIMINGS = event(
    {
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        "timings": {"cache_n": 2, "prompt_n": 5, "prompt_ms": 11.5, "predicted_n": 3, "predicted_ms": 30.0},
    }
)
DONE = b"data: [DONE]\n\n"
WORDS = delta(role="assistant", content=None) + delta(content="one ") + delta(content="two")


class ScriptedServer:
    """A llama-server whose answers are bytes that the test wrote; `cut` drops the connection after them."""

    def __init__(self) -> None:
        self.body = WORDS + FINISH + TIMINGS + DONE
        self.status = 200
        self.cut = False
        self.loading = False
        self.props = True
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.gone = asyncio.Event()
        self.hang = False
        self.url = ""

    async def __aenter__(self) -> ScriptedServer:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/props", self._props)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers.get("authorization"))
        return web.json_response({"object": "list", "data": [{"id": "qwen", "meta": {"size": 42}}]})

    async def _props(self, _request: web.Request) -> web.Response:
        if self.loading:
            return web.json_response(LOADING, status=503)
        if not self.props:
            return web.Response(status=404)
        return web.json_response({"total_slots": 3, "default_generation_settings": {"n_ctx": 6144}})

    async def _health(self, _request: web.Request) -> web.Response:
        if self.loading:
            return web.json_response(LOADING, status=503)
        return web.json_response({"status": "ok"})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        if self.status != 200:
            return web.Response(status=self.status, body=self.body, content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(self.body)
        if self.hang:
            try:
                await asyncio.Event().wait()
            finally:
                self.gone.set()
        if self.cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    async def _embeddings(self, request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        data = [{"index": i, "embedding": [float(len(text))]} for i, text in enumerate(texts)]
        return web.json_response({"data": data[::-1], "usage": {"prompt_tokens": 5}})


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as running:
        yield running


@pytest.fixture
async def node(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[Node]:
    async with node_in_process(
        tmp_path, engine="openai", openai_base_url=server.url, openai_api_key="sk-1", num_parallel=8
    ) as running:
        yield running


async def test_a_stream_becomes_text_usage_and_times(node: Node, server: ScriptedServer) -> None:
    messages = await node.lines(model="qwen", prompt="hi")
    assert (text_of(messages), kinds(messages)) == ("one two", ["started", "delta", "done"])
    done = done_of(messages)
    assert (done.done_reason, done.token_usage.prompt_tokens, done.token_usage.completion_tokens) == (
        "length", 7, 3,
    )  # fmt: skip
    assert (done.latency.prompt_ms, done.latency.generate_ms) == (11.5, 30.0)
    assert done.latency.tokens_per_second == 100.0
    assert set(server.headers) == {"Bearer sk-1"}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_thinking(node: Node, server: ScriptedServer, name: str) -> None:
    server.body = delta(**{name: "hm"}) + WORDS + FINISH + USAGE + DONE
    messages = await node.lines(model="qwen", prompt="hi")
    assert (text_of(messages, "thinking"), text_of(messages)) == ("hm", "one two")


async def test_comments_and_separators_of_unicode_do_no_harm(node: Node, server: ScriptedServer) -> None:
    server.body = b": ping\n\n" + delta(content="a\u0085b\u2028c") + b":\r\n\r\n" + FINISH + USAGE + DONE
    assert text_of(await node.lines(model="qwen", prompt="hi")) == "a\u0085b\u2028c"


@pytest.mark.parametrize(
    ("body", "cut", "code"),
    [
        (
            WORDS + event({"error": {"code": 500, "message": "boom", "type": "server_error"}}),
            False,
            "engine_failed",
        ),
        (WORDS + event(OVERFLOW), False, "context_overflow"),
        (WORDS, False, "stream_cut"),
        (WORDS + FINISH + USAGE, False, "stream_cut"),
        (WORDS + b'data: {"choices":[{"delta":{"content":"hal', False, "stream_cut"),
        (WORDS, True, "stream_cut"),
        (WORDS + b"data: {nonsense}\n\n", False, "engine_failed"),
    ],
    ids=["error", "overflow", "no-done", "finish-without-done", "half-a-chunk", "cut", "garbage"],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_breaks_in_mid_stream_is_an_error(
    node: Node, server: ScriptedServer, body: bytes, cut: bool, code: str, stream: bool
) -> None:
    server.body, server.cut = body, cut
    if stream:
        messages = await node.lines(model="qwen", prompt="hi")
        assert text_of(messages) == "one two", "what arrived before is not lost"
        assert error_of(messages)["code"] == code
    else:
        assert (await node.whole(model="qwen", prompt="hi")).json()["code"] == code


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, OVERFLOW, "context_overflow"),
        (503, LOADING, "engine_busy"),
        (401, {"error": {"message": "Invalid API Key", "code": 401}}, "engine_unavailable"),
        (500, {"error": {"message": "boom", "type": "server_error"}}, "engine_failed"),
        (400, {"error": {"message": "bad grammar", "type": "invalid_request_error"}}, "invalid_request"),
    ],
)
async def test_a_refusal_is_translated(
    node: Node, server: ScriptedServer, status: int, body: Any, code: str
) -> None:
    server.status, server.body = status, json.dumps(body).encode()
    response = await node.whole(model="qwen", prompt="hi")
    assert response.json()["code"] == code


async def test_a_server_that_loads_is_waited_for(node: Node, server: ScriptedServer) -> None:
    assert (await node.client.get("/health/models")).json()["models"][0]["resident"] is True
    server.loading = True
    await asyncio.sleep(1.1)  # the node's knowledge is a second old at most
    assert (await node.client.get("/health/models")).json()["models"][0]["resident"] is False
    call = asyncio.create_task(node.lines(model="qwen", prompt="hi"))
    await asyncio.sleep(0.2)
    assert not server.requests, "nothing is sent to a server that still loads"
    server.loading = False
    assert done_of(await call).latency.load_ms > 0


async def test_slots_and_context_are_those_of_the_server(node: Node) -> None:
    model = (await node.client.get("/health/models")).json()["models"][0]
    assert (model["name"], model["slots"], model["context_length"], model["size"]) == ("qwen", 3, 6144, 42)
    engine = (await node.client.get("/health/ollama")).json()["engines"][0]
    assert (engine["kind"], engine["status"]) == ("llama-server", "connected")


async def test_options_and_format_are_said_in_the_servers_words(node: Node, server: ScriptedServer) -> None:
    schema = {"type": "object"}
    options = {"num_predict": 5, "repeat_penalty": 1.1, "seed": -1, "stop": "END", "top_k": 3}
    await node.lines(model="qwen", prompt="hi", system="s", options=options, format=schema, think=False)
    sent = server.requests[-1]
    assert sent["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    assert (sent["max_tokens"], sent["repeat_penalty"], sent["stop"], sent["top_k"]) == (5, 1.1, ["END"], 3)
    assert "seed" not in sent
    assert sent["response_format"]["json_schema"]["schema"] == schema
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_reaches_the_server_in_both_modes(
    node: Node, server: ScriptedServer, stream: bool
) -> None:
    server.hang = True
    body = {"model": "qwen", "prompt": "x", "stream": stream}
    call = asyncio.create_task(node.client.post("/api/generate", json=body))
    while not server.requests:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    call.cancel()
    async with asyncio.timeout(30):
        await server.gone.wait()


async def test_embeddings_come_in_the_order_of_their_texts(node: Node) -> None:
    response = await node.client.post("/api/embed", json={"model": "qwen", "input": ["a", "bbb"]})
    assert response.json()["embeddings"] == [[1.0], [3.0]]


@pytest.mark.parametrize("path", ["unload", "pull"])
async def test_what_such_servers_cannot_do_is_said(node: Node, path: str) -> None:
    response = await node.client.post(f"/api/models/{path}", json={"model": "qwen"})
    assert (response.status_code, response.json()["code"]) == (501, "not_supported")


async def test_a_server_of_another_kind_is_spoken_to_in_plain_openai(tmp_path: Path) -> None:
    """The stand-in's `/v1`: no `/props`, one slot limit from the settings, thinking as `reasoning`."""
    model = StandInModel("m:latest", resident=True, thinking=True, reply=Reply("the answer", thinking="hm"))
    async with (
        StandInOllama([model], slots=2) as ollama,
        node_in_process(
            tmp_path, engine="openai", openai_base_url=f"{ollama.base_url}/v1", num_parallel=2
        ) as node,
    ):
        messages = await node.lines(model="m", prompt="hi", options={"num_predict": 50, "top_k": 2})
        assert (text_of(messages), text_of(messages, "thinking")) == ("the answer", "hm")
        record = ollama.calls(kind="chat")[-1]
        usage = done_of(messages).token_usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (record.prompt_eval_count, record.eval_count)
        assert "top_k" not in record.request
        engines = (await node.client.get("/health/ollama")).json()["engines"]
        assert engines[0]["kind"] == "openai"
