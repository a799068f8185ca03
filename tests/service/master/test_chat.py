"""OpenAI's shapes: one model, or the whole council under the name `council`."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.service.master.rig import CHAIRMAN, MODELS, Rig, model
from tests.standin import Fault
from tests.standin.model import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"


def _ask(name: str, **more: Any) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": "Hello?"}], **more}


async def _stream(rig: Rig, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a streamed answer, which has to end with `[DONE]`."""
    async with rig.client.stream("POST", CHAT, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def _text(chunks: list[dict[str, Any]], field: str = "content") -> str:
    return "".join(one["choices"][0]["delta"].get(field, "") for one in chunks if one["choices"])


async def test_models_are_listed_with_the_council_first(cluster: Rig) -> None:
    listed = (await cluster.client.get("/v1/models")).json()
    names = [one["id"].removesuffix(":latest") for one in listed["data"]]
    assert (listed["object"], names[0], sorted(names[1:])) == ("list", "council", sorted(MODELS))
    assert all(one["object"] == "model" and one["owned_by"] for one in listed["data"])


async def test_a_named_model_answers_whole(cluster: Rig) -> None:
    cluster.standin.set_model(model("m1", reply=Reply("Hello there.", prompt_eval_count=7, eval_count=2)))
    response = await cluster.client.post(CHAT, json=_ask("m1", temperature=0.5, max_tokens=50))
    answer = response.json()
    assert (response.status_code, answer["object"], answer["model"]) == (200, "chat.completion", "m1")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there."},
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    [call] = cluster.standin.calls(kind="chat")
    assert (call.options["temperature"], call.options["num_predict"]) == (0.5, 50)
    assert [one["content"] for one in call.messages] == ["Hello?"]


async def test_a_named_model_answers_in_chunks(cluster: Rig) -> None:
    cluster.standin.set_model(model("m1", reply=Reply("one two three", prompt_eval_count=7)))
    chunks = await _stream(cluster, _ask("m1", stream_options={"include_usage": True}))
    assert {(one["object"], one["model"]) for one in chunks} == {("chat.completion.chunk", "m1")}
    assert len({one["id"] for one in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert _text(chunks) == "one two three"
    assert [one["choices"][0]["finish_reason"] for one in chunks if one["choices"]][-1] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


async def test_an_answer_that_begins_anew_says_so_in_the_text(cluster: Rig) -> None:
    cluster.standin.set_model(model("m1", reply=Reply("one two three")))
    cluster.standin.add_faults(Fault("cut", model="m1", after_tokens=2, times=1))
    text = _text(await _stream(cluster, _ask("m1")))
    assert text == "one two\n\n*(cut off on pc2; the answer begins anew)*\n\none two three"
    cluster.standin.add_faults(Fault("cut", model="m1", after_tokens=2, times=1))
    whole = (await cluster.client.post(CHAT, json=_ask("m1"))).json()
    assert whole["choices"][0]["message"]["content"] == "one two three"


async def test_a_client_that_does_not_read_holds_no_engine(cluster: Rig) -> None:
    """Its answer is kept for it, whole and in order, while the slot goes to others."""
    words = tuple(f"{number:06d} {'x' * 4000} " for number in range(1000))
    cluster.standin.set_model(model("m1", reply=Reply(tokens=words), token_ms=0))
    host, port = urlsplit(str(cluster.client.base_url)).netloc.split(":")
    body = json.dumps(_ask("m1", stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(lazy, (host, int(port)))
        await loop.sock_sendall(
            lazy, f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
        )
        await cluster.standin.until(lambda server: server.calls(model="m1", outcome="done"))
        read = b""
        while part := await loop.sock_recv(lazy, 1 << 20):
            read += part
    chunks = re.findall(rb"data: (\{.*\})", read)
    assert _text([json.loads(one) for one in chunks]) == "".join(words)
    assert read.rstrip().endswith(b"data: [DONE]\n\n\r\n0")


async def test_thinking_and_a_reached_limit_are_told_as_such(cluster: Rig) -> None:
    cluster.standin.set_model(model("m4", thinking=True, answer_tokens=30))
    whole = (await cluster.client.post(CHAT, json=_ask("m4"))).json()["choices"][0]["message"]
    assert "weighs the question" in whole["reasoning"]
    assert "weighs the question" not in whole["content"]
    chunks = await _stream(cluster, _ask("m4"))
    assert _text(chunks, "reasoning") == whole["reasoning"]
    assert _text(chunks) == whole["content"]
    short = (await cluster.client.post(CHAT, json=_ask("m1", max_completion_tokens=3))).json()
    assert short["choices"][0]["finish_reason"] == "length"


async def test_a_schema_reaches_the_engine_and_bounds_the_answer(cluster: Rig) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["city", "people"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    answer = (await cluster.client.post(CHAT, json=_ask("m1", response_format=wanted))).json()
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"city", "people"}
    plain = (await cluster.client.post(CHAT, json=_ask("m1", response_format={"type": "json_object"}))).json()
    assert isinstance(json.loads(plain["choices"][0]["message"]["content"]), dict)
    assert [one.request.get("format") for one in cluster.standin.calls(kind="chat")] == [schema, "json"]


async def test_the_council_answers_as_a_model(cluster: Rig) -> None:
    cluster.standin.set_model(model("m1"))
    for streamed in (False, True):
        if streamed:
            chunks = await _stream(cluster, _ask("council", stream_options={"include_usage": True}))
            text, usage = _text(chunks), chunks[-1]["usage"]
        else:
            response = await cluster.client.post(CHAT, json=_ask("council"), timeout=60)
            assert response.status_code == 200, response.text
            text = response.json()["choices"][0]["message"]["content"]
            usage = response.json()["usage"]
        [newest] = (await cluster.client.get("/api/council/sessions?limit=1")).json()["sessions"]
        session = await cluster.get(newest["id"])
        assert session["question"] == "Hello?"
        assert text == session["synthesis"]["text"]
        assert usage["total_tokens"] == session["token_usage"]["total_tokens"]


async def test_a_streamed_council_begins_before_its_chairman_does(cluster: Rig) -> None:
    """Clients that hear nothing while the seats speak and review give up."""
    body = {**_ask("council"), "stream": True}
    async with cluster.client.stream("POST", CHAT, json=body) as response:
        assert response.status_code == 200
        lines = response.aiter_lines()
        first = json.loads((await anext(lines)).removeprefix("data: "))
        [newest] = (await cluster.client.get("/api/council/sessions?limit=1")).json()["sessions"]
        assert newest["state"] in ("queued", "opinions")
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    roles = [json.loads(line.removeprefix("data: ")) for line in rest[:-1]]
    assert not any("role" in one["choices"][0]["delta"] for one in roles)


async def test_what_fails_is_an_error_in_openais_shape(cluster: Rig) -> None:
    for stream in (False, True):
        unknown = await cluster.client.post(CHAT, json=_ask("gpt-x", stream=stream))
        error = unknown.json()["error"]
        assert (unknown.status_code, error["code"]) == (409, "model_unavailable")
        assert set(error) == {"message", "type", "param", "code"}
    cluster.standin.set_model(model(CHAIRMAN))
    cluster.standin.add_faults(Fault("error_line", model=CHAIRMAN, after_tokens=2, times=None))
    async with cluster.client.stream("POST", CHAT, json=_ask(CHAIRMAN, stream=True)) as response:
        lines = [line async for line in response.aiter_lines() if line]
    assert "error" in json.loads(lines[-1].removeprefix("data: "))
