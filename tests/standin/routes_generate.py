"""`/api/chat`, `/api/generate` and `/v1/chat/completions`: from a body to a generation."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from tests.standin.early_faults import before_scheduling
from tests.standin.encoders import ChatEncoder, Encoder, GenerateEncoder, OpenAIEncoder
from tests.standin.engine import Engine, Installed, loop_ms
from tests.standin.faults import FaultKind
from tests.standin.generation import Generation, old_error_line, refuse_by_fault
from tests.standin.journal import CallRecord
from tests.standin.model import prompt_text, reply_for
from tests.standin.options import parse_options
from tests.standin.plan import Call, make_plan
from tests.standin.wire import (
    JSON,
    Refusal,
    created_at,
    full_name,
    go_json,
    keep_alive_s,
    require_valid_name,
    text_field,
)

_THINK_LEVELS = ("high", "medium", "low", "max")


async def chat(engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord) -> Any:
    """`POST /api/chat`."""
    name = text_field(body, "model")
    if not name:
        raise Refusal(400, "model is required")
    require_valid_name(name)
    messages = _messages(body)
    installed = engine.require(name, f"model '{name}' not found")
    return await _generate(engine, request, body, record, installed, ChatEncoder(name), messages)


async def generate(engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord) -> Any:
    """`POST /api/generate`."""
    name = text_field(body, "model")
    if name:
        require_valid_name(name)
    record.prompt = text_field(body, "prompt")
    installed = engine.require(name, f"model '{name}' not found")
    return await _generate(engine, request, body, record, installed, GenerateEncoder(name), None)


async def openai_chat(
    engine: Engine, request: web.BaseRequest, body: dict[str, Any], record: CallRecord
) -> Any:
    """`POST /v1/chat/completions`, rewritten onto chat as Ollama's middleware does."""
    name = text_field(body, "model")
    if not body.get("messages"):
        raise Refusal(400, "[] is too short - 'messages'")
    native = from_openai(body)
    record.request = native
    if not name:
        raise Refusal(400, "model is required")
    require_valid_name(name)
    messages = _messages(native)
    installed = engine.require(name, f"model '{name}' not found")
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    encoder = OpenAIEncoder(name, usage)
    return await _generate(engine, request, native, record, installed, encoder, messages)


def from_openai(body: dict[str, Any]) -> dict[str, Any]:
    """The chat request that Ollama makes of OpenAI's; temperature and top_p become 1.0 unless given."""
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
    for name in ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty"):
        if body.get(name) is not None:
            options[name] = body[name]
    if body.get("max_tokens") is not None:
        options["num_predict"] = body["max_tokens"]
    stop = body.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    messages: list[dict[str, Any]] = []
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, list):
            messages.extend({**message, "content": part.get("text", "")} for part in content)
        else:
            messages.append(message)
    native: dict[str, Any] = {
        "model": body.get("model"),
        "messages": messages,
        "stream": bool(body.get("stream", False)),
        "options": options,
    }
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        native["format"] = "json"
    elif wanted.get("type") == "json_schema":
        native["format"] = wanted.get("json_schema", {}).get("schema")
    effort = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort")
    if effort is not None:
        levels: dict[str, Any] = {"none": False, "minimal": "low", "xhigh": "high", "ultra": "max"}
        native["think"] = levels.get(effort, effort)
    if body.get("tools"):
        native["tools"] = body["tools"]
    return native


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refusal(
            400,
            "json: cannot unmarshal value into Go struct field ChatRequest.messages of type []api.Message",
        )
    return messages


async def _generate(
    engine: Engine,
    request: web.BaseRequest,
    body: dict[str, Any],
    record: CallRecord,
    installed: Installed,
    encoder: Encoder,
    messages: list[dict[str, Any]] | None,
) -> web.StreamResponse:
    model = installed.model
    stream = body.get("stream") is not False
    _describe(record, body, messages, stream)
    think = _check(model.name, model, body, record.kind)
    options = parse_options(body.get("options"))
    keep_alive = keep_alive_s(body.get("keep_alive"))
    empty = not (messages if messages is not None else body.get("prompt"))
    if empty and keep_alive == 0:
        engine.scheduler.unload(model.name)
        return _without_text(engine, record, encoder, str(body["model"]), "unload")
    faults = () if empty else engine.faults.take(model.name, record.kind, record.format_present)
    call = Call(request, record, model, encoder, stream, faults, [])
    record.faults = tuple(str(fault.kind) for fault in faults)
    await before_scheduling(faults)

    context = options.context(engine.context_length, model.context_length)
    shift = body.get("shift") is not False
    lasting = engine.default_keep_alive_s if keep_alive is None else keep_alive
    lasting = float("inf") if lasting < 0 else lasting
    if model.hand_out_ms > 0:
        await asyncio.sleep(model.hand_out_ms / 1000)
    lease = await engine.scheduler.acquire(model, options.load_key(context, shift), context, lasting)
    record.loaded_ms = loop_ms()
    if empty:
        lease.release()
        return _without_text(engine, record, encoder, str(body["model"]), "load")
    try:
        call.prompt_words = _fitted(record, body, messages, context)
    except Refusal:
        lease.release()
        raise
    async with lease:
        record.started_ms = loop_ms()
        engine.journal.changed()
        refuse_by_fault(engine, call)
        for fault in faults:
            if fault.kind is FaultKind.OLD_ERROR_LINE:
                record.error = fault.text
                engine.journal.close(record, "error", loop_ms())
                return old_error_line(call, fault)
        plan = make_plan(
            call,
            reply_for(model, body, installed.generations),
            think=think,
            limit=options.token_limit(context),
            stop=options.stop,
            room=None if shift else max(0, context - len(call.prompt_words)),
        )
        installed.generations += 1
        call.with_context = messages is None and not body.get("raw")
        return await Generation(engine, call, plan, lease.runner).run()


def _describe(
    record: CallRecord, body: dict[str, Any], messages: list[dict[str, Any]] | None, stream: bool
) -> None:
    record.request = body
    record.stream = stream
    record.format_present = bool(body.get("format"))
    record.messages = messages or []
    options = body.get("options")
    record.options = options if isinstance(options, dict) else {}


def _check(listed: str, model: Any, body: dict[str, Any], kind: str) -> bool:
    """Refuse what this model cannot do; returns whether it is to think."""
    name = str(body["model"])
    wanted = body.get("format")
    if wanted not in (None, "", "json") and not isinstance(wanted, dict):
        shown = go_json(wanted).decode()
        inner = go_json(shown).decode()
        raise Refusal(500, f'invalid format: {inner}; expected "json" or a valid JSON Schema object')
    if not 0 <= int(body.get("top_logprobs") or 0) <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")
    think = body.get("think")
    if isinstance(think, str) and think not in _THINK_LEVELS:
        levels = ", ".join(f'"{level}"' for level in _THINK_LEVELS)
        raise Refusal(400, f'invalid think value: "{think}" (must be {levels}, true, or false)')
    if model.embedding_only:
        raise Refusal(400, f'"{name}" does not support {kind}')
    if body.get("tools") and "tools" not in model.capabilities:
        raise Refusal(400, f"registry.ollama.ai/library/{full_name(listed)} does not support tools")
    if think and not model.thinking:
        raise Refusal(400, f'"{name}" does not support thinking')
    return bool(model.thinking and think is not False)


def _fitted(
    record: CallRecord, body: dict[str, Any], messages: list[dict[str, Any]] | None, context: int
) -> list[str]:
    """The words of the prompt that fit the context; the oldest non-system messages go first, silently."""
    words = prompt_text(body).split()
    if len(words) <= context:
        return words or [""]
    if body.get("truncate") is not False and messages is not None:
        kept = list(messages)
        while len(words) > context:
            oldest = next((m for m in kept[:-1] if str(m.get("role")).lower() != "system"), None)
            if oldest is None:
                break
            kept.remove(oldest)
            words = prompt_text({"messages": kept}).split()
        record.dropped_messages = len(messages) - len(kept)
    if len(words) > context:
        raise Refusal(400, overflow_text(len(words), context), by_engine=True)
    return words


def overflow_text(tokens: int, context: int) -> str:
    """llama-server's own error body, as Ollama passes it through."""
    message = (
        f"request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
    )
    error = {
        "code": 400,
        "message": message,
        "type": "exceed_context_size_error",
        "n_prompt_tokens": tokens,
        "n_ctx": context,
    }
    return go_json({"error": error}).decode()


def _without_text(
    engine: Engine, record: CallRecord, encoder: Encoder, name: str, reason: str
) -> web.StreamResponse:
    value: dict[str, Any] = {"model": name, "created_at": created_at()}
    if isinstance(encoder, GenerateEncoder):
        value["response"] = ""
    else:
        value["message"] = {"role": "assistant", "content": ""}
    record.status = 200
    record.done_reason = reason
    engine.journal.close(record, "done", loop_ms())
    body = go_json({**value, "done": True, "done_reason": reason})
    return web.Response(body=body, headers={"Content-Type": JSON})
