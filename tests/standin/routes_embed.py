"""`/api/embed`, `/api/embeddings` and `/v1/embeddings`: vectors in which texts that share words are near."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
from array import array
from typing import Any

from aiohttp import web

from tests.standin.early_faults import before_scheduling, on_simple_route
from tests.standin.engine import Engine, loop_ms, sleep_until
from tests.standin.faults import Fault, FaultKind
from tests.standin.journal import CallRecord
from tests.standin.model import StandInModel
from tests.standin.options import parse_options
from tests.standin.scheduler import DIED_TEXT
from tests.standin.wire import JSON, JSON_BARE, Refusal, go_json, keep_alive_s, text_field


def embedding_of(text: str, dimensions: int) -> list[float]:
    """A unit vector, to float32 precision: every lower-case word adds a direction of its own."""
    sums = [0.0] * dimensions
    for word in text.lower().split() or [""]:
        digest = hashlib.shake_128(word.encode("utf-8", "replace")).digest(dimensions)
        for index, byte in enumerate(digest):
            sums[index] += byte - 127.5
    norm = math.sqrt(sum(value * value for value in sums)) or 1.0
    return [round(value / norm, 8) for value in sums]


async def embed(engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord) -> Any:
    """`POST /api/embed`."""
    name = text_field(body, "model")
    model = _model(engine, name, f"model '{name}' not found" if not name else None)
    texts = _inputs(body.get("input"))
    vectors, tokens = await _embed(engine, request, body, record, model, texts)
    now_ms = loop_ms()
    value = {
        "model": name,
        "embeddings": vectors,
        "total_duration": max(1, int((now_ms - record.received_ms) * 1e6)),
        "load_duration": max(1, int(((record.loaded_ms or now_ms) - record.received_ms) * 1e6)),
        "prompt_eval_count": tokens,
    }
    return _answer(engine, record, {k: v for k, v in value.items() if v != 0}, tokens, JSON)


async def embeddings(
    engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord
) -> Any:
    """`POST /api/embeddings`, the legacy route."""
    name = text_field(body, "model")
    if not name:
        raise Refusal(400, "model is required")
    model = _model(engine, name, None)
    record.prompt = text_field(body, "prompt")
    vectors, tokens = await _embed(
        engine, request, body, record, model, [record.prompt] if record.prompt else []
    )
    return _answer(engine, record, {"embedding": vectors[0] if vectors else []}, tokens, JSON)


async def openai_embeddings(
    engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord
) -> Any:
    """`POST /v1/embeddings`."""
    name = text_field(body, "model")
    model = _model(engine, name, None)
    texts = _inputs(body.get("input"))
    vectors, tokens = await _embed(engine, request, body, record, model, texts)
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "embedding": _packed(vector) if packed else vector, "index": index}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    value = {"object": "list", "data": data, "model": name, "usage": usage}
    return _answer(engine, record, value, tokens, JSON_BARE)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()


def _model(engine: Engine, name: str, text: str | None) -> StandInModel:
    return engine.require(name, text or f'model "{name}" not found, try pulling it first').model


def _inputs(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "invalid input type")
    return texts


async def _embed(
    engine: Engine,
    request: web.BaseRequest,
    body: dict[str, Any],
    record: CallRecord,
    model: StandInModel,
    texts: list[str],
) -> tuple[list[list[float]], int]:
    record.request = {name: value for name, value in body.items() if name != "input"}
    record.messages = [{"role": "input", "content": text} for text in texts]
    options = parse_options(body.get("options"))
    record.options = body.get("options") or {}
    faults = engine.faults.take(model.name, "embed", False)
    record.faults = tuple(str(fault.kind) for fault in faults)
    await before_scheduling(faults)
    context = options.context(engine.context_length, model.context_length)
    counts = [len(text.split()) for text in texts]
    if any(count > context for count in counts):
        if body.get("truncate") is False:
            raise Refusal(400, "the input length exceeds the context length")
        counts = [min(count, context) for count in counts]
        texts = [" ".join(text.split()[:context]) for text in texts]
    keep_alive = keep_alive_s(body.get("keep_alive"))
    lasting = engine.default_keep_alive_s if keep_alive is None else keep_alive
    lasting = float("inf") if lasting < 0 else lasting
    lease = await engine.scheduler.acquire(model, options.load_key(context, True), context, lasting)
    record.loaded_ms = loop_ms()
    tokens = sum(counts)
    dimensions = int(body.get("dimensions") or model.embedding_length)
    async with lease:
        record.started_ms = loop_ms()
        engine.journal.changed()
        await _strike(engine, request, record, model, faults)
        spent_s = tokens / model.prompt_tokens_per_s if model.prompt_tokens_per_s > 0 else 0.0
        spent_s += (model.first_token_ms + (model.duration_ms or 0.0)) / 1000
        await sleep_until(asyncio.get_running_loop().time() + spent_s)
        return [embedding_of(text, dimensions) for text in texts], tokens


async def _strike(
    engine: Engine,
    request: web.BaseRequest,
    record: CallRecord,
    model: StandInModel,
    faults: tuple[Fault, ...],
) -> None:
    for fault in faults:
        if fault.kind is FaultKind.RUNNER_DIED:
            engine.scheduler.kill(model.name)
            raise Refusal(500, fault.text or DIED_TEXT)
        if fault.kind is FaultKind.CUT:
            engine.journal.close(record, "cut", loop_ms())
        if fault.kind is not FaultKind.DELAY:
            await on_simple_route(request, (fault,))


def _answer(
    engine: Engine, record: CallRecord, value: dict[str, Any], tokens: int, content_type: str
) -> web.StreamResponse:
    record.status = 200
    record.prompt_eval_count = tokens
    engine.journal.close(record, "done", loop_ms())
    return web.Response(body=go_json(value), headers={"Content-Type": content_type})
