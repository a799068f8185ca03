"""The routes that list, show, fetch and delete models, and those that say that the server is there."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from tests.standin.channel import Channel
from tests.standin.engine import Engine, Installed, loop_ms
from tests.standin.journal import CallRecord
from tests.standin.model import StandInModel
from tests.standin.wire import (
    JSON,
    JSON_BARE,
    NDJSON,
    TEXT,
    Refusal,
    full_name,
    go_json,
    local_time,
    lookup_key,
    require_valid_name,
    text_field,
)

_PROGRESS_S = 0.06
_QUANTIZED_FORMAT = "gguf"


def _reply(value: Any, content_type: str = JSON) -> web.Response:
    return web.Response(body=go_json(value), headers={"Content-Type": content_type})


def _details(model: StandInModel, *, sizes: bool) -> dict[str, Any]:
    details: dict[str, Any] = {
        "parent_model": "",
        "format": _QUANTIZED_FORMAT,
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization_level,
    }
    if sizes:
        details["context_length"] = model.context_length
        details["embedding_length"] = model.embedding_length
    return details


async def root(engine: Engine) -> web.Response:
    """`GET /`."""
    return web.Response(body=b"Ollama is running", headers={"Content-Type": TEXT})


async def version(engine: Engine) -> web.Response:
    """`GET /api/version`."""
    return _reply({"version": engine.version})


async def status(engine: Engine) -> web.Response:
    """`GET /api/status`."""
    return _reply({"cloud": {"disabled": True, "source": "env"}})


async def tags(engine: Engine) -> web.Response:
    """`GET /api/tags`, the newest first."""
    newest = sorted(engine.installed.values(), key=lambda entry: -entry.modified_at)
    return _reply({"models": [_tag(entry) for entry in newest]})


def _tag(entry: Installed) -> dict[str, Any]:
    model = entry.model
    return {
        "name": full_name(model.name),
        "model": full_name(model.name),
        "modified_at": local_time(entry.modified_at),
        "size": model.size,
        "digest": model.digest,
        "details": _details(model, sizes=True),
        "capabilities": list(model.capabilities),
    }


async def ps(engine: Engine) -> web.Response:
    """`GET /api/ps`: ready models, the longest remaining first."""
    now_s = asyncio.get_running_loop().time()
    shown = []
    for runner in engine.scheduler.runners:
        remaining_s = min(runner.keep_alive_s, 200 * 365 * 86_400.0)
        if not runner.references:
            remaining_s = min(remaining_s, runner.expires_at - now_s)
        shown.append((remaining_s, runner))
    shown.sort(key=lambda pair: -pair[0])
    models = [
        {
            "name": full_name(runner.model.name),
            "model": full_name(runner.model.name),
            "size": runner.model.size,
            "digest": runner.model.digest,
            "details": _details(runner.model, sizes=True),
            "expires_at": local_time(time.time() + remaining_s),
            "size_vram": runner.model.size,
            "context_length": runner.context,
        }
        for remaining_s, runner in shown
    ]
    return _reply({"models": models})


async def show(engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord) -> Any:
    """`POST /api/show`."""
    name = text_field(body, "model") or text_field(body, "name")
    if not name:
        raise Refusal(400, "model is required")
    require_valid_name(name)
    entry = engine.require(name, f"model '{full_name(name)}' not found")
    model = entry.model
    arch = model.family
    return _reply(
        {
            "modelfile": f"# Modelfile of {full_name(model.name)}\nFROM {full_name(model.name)}\n",
            "template": "{{ .Prompt }}",
            "details": _details(model, sizes=False),
            "model_info": {
                "general.architecture": arch,
                f"{arch}.context_length": model.context_length,
                f"{arch}.embedding_length": model.embedding_length,
                "tokenizer.ggml.tokens": [],
            },
            "capabilities": list(model.capabilities),
            "modified_at": local_time(entry.modified_at),
        }
    )


async def delete(engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord) -> Any:
    """`DELETE /api/delete`."""
    name = text_field(body, "model") or text_field(body, "name")
    if not name:
        raise Refusal(400, "model is required")
    require_valid_name(name)
    engine.require(name, f"model '{name}' not found")
    engine.scheduler.unload(name)
    del engine.installed[lookup_key(name)]
    return web.Response()


async def pull(engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord) -> Any:
    """`POST /api/pull`: progress every 60 ms over the server's `pull_ms`; resumes what was broken off."""
    name = text_field(body, "model") or text_field(body, "name")
    if not name:
        raise Refusal(400, "model is required")
    require_valid_name(name)
    key = lookup_key(name)
    entry = engine.installed.get(key)
    model = entry.model if entry else engine.registry.get(key)
    stream = body.get("stream") is not False
    if not stream:
        if model is None:
            raise Refusal(500, "pull model manifest: file does not exist", by_engine=True)
        await _fetch(engine, model, key, None)
        return _reply({"status": "success"}, JSON_BARE)
    channel = Channel(request, NDJSON)
    await channel.send(go_json({"status": "pulling manifest"}) + b"\n")
    if model is None:
        record.error = "pull model manifest: file does not exist"
        await channel.send(go_json({"error": record.error}) + b"\n")
        record.status = 200
        engine.journal.close(record, "error", loop_ms())
        return await channel.close()
    await _fetch(engine, model, key, channel)
    for text in ("verifying sha256 digest", "writing manifest", "success"):
        await channel.send(go_json({"status": text}) + b"\n")
    return await channel.close()


async def _fetch(engine: Engine, model: StandInModel, key: str, channel: Channel | None) -> None:
    total = model.size
    line: dict[str, Any] = {
        "status": f"pulling {model.digest[:12]}",
        "digest": f"sha256:{model.digest}",
        "total": total,
    }

    async def tell(completed: int) -> None:
        if channel is not None:
            shown = {**line, "completed": completed} if completed else line
            await channel.send(go_json(shown) + b"\n")

    if key not in engine.installed:
        done = engine.partial_pulls.get(key, 0)
        steps = max(1, round(engine.pull_ms / 1000 / _PROGRESS_S))
        per_step = -(-total // steps)
        await tell(done)
        start_s = asyncio.get_running_loop().time()
        step = 0
        while done + per_step < total:
            step += 1
            await asyncio.sleep(max(0.0, start_s + step * _PROGRESS_S - asyncio.get_running_loop().time()))
            done += per_step
            engine.partial_pulls[key] = done
            await tell(done)
        await asyncio.sleep(max(0.0, min(engine.pull_ms / 1000, _PROGRESS_S)))
        engine.partial_pulls.pop(key, None)
        engine.install(model)
    await tell(total)


async def openai_models(engine: Engine) -> web.Response:
    """`GET /v1/models`."""
    data = [
        {
            "id": full_name(entry.model.name),
            "object": "model",
            "created": int(entry.modified_at),
            "owned_by": "library",
        }
        for entry in sorted(engine.installed.values(), key=lambda entry: -entry.modified_at)
    ]
    return _reply({"object": "list", "data": data or None}, JSON_BARE)
