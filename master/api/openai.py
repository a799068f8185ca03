"""OpenAI's shapes, first form: `council` is the whole council, a named model is one call on the best node."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from common.errors import (
    CancelledCallError,
    CouncilError,
    InternalError,
    InvalidRequestError,
    MalformedBodyError,
    ModelUnavailableError,
    from_problem,
)
from common.logs import get_logger
from common.protocol import Channel, Message
from common.telemetry import TraceContext
from common.usage import TokenUsage
from master.api.direct import unless_hung_up
from master.api.models import cluster_models
from master.api.problems import NOT_SENT_AS_JSON, in_words
from master.api.schemas import CreateSession, SamplingOptions, Words
from master.cluster.calls import Answer, Call, CallWatcher, SilentWatcher
from master.council.runner import SessionRunner
from master.services import Master, Services

router = APIRouter(prefix="/v1", tags=["openai"])
COUNCIL_MODEL = "council"
CHAT_PATH = "/v1/chat/completions"
EXPECTED_TOKENS = 256  # of an answer, for placement, where the client allows as many
_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode
_log = get_logger(__name__)


class ChatPart(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["text"]
    text: Words


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Words | list[ChatPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    include_usage: bool = False


class ChatCompletion(BaseModel):
    """The fields that are used; others of OpenAI's are ignored, as servers of this shape do."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=32768)
    max_completion_tokens: int | None = Field(None, ge=1, le=32768)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    stop: str | list[str] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: dict[str, Any] | None = None
    service_tier: str | None = Field(None, max_length=40)

    @property
    def is_flex(self) -> bool:
        """Whether the call may wait for what is more urgent. Councils are not run so."""
        return self.service_tier == "flex" and self.model != COUNCIL_MODEL

    @property
    def tier(self) -> dict[str, str]:
        """What the answer says of it, where the request did."""
        if self.service_tier is None:
            return {}
        return {"service_tier": "flex" if self.is_flex else "default"}

    def options(self) -> dict[str, Any]:
        return SamplingOptions(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            num_predict=self.max_completion_tokens or self.max_tokens,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        ).as_dict()

    def format(self) -> Literal["json"] | dict[str, Any] | None:
        kind = (self.response_format or {}).get("type")
        if kind == "json_object":
            return "json"
        if kind == "json_schema":
            described = (self.response_format or {}).get("json_schema")
            schema = described.get("schema") if isinstance(described, dict) else None
            if not isinstance(schema, dict):
                raise InvalidRequestError("response_format.json_schema.schema has to be a JSON Schema object")
            return schema
        return None


@router.get("/models")
async def list_models(master: Master) -> dict[str, Any]:
    now = int(time.time())
    names = [COUNCIL_MODEL, *(entry["name"] for entry in cluster_models(master.registry))]
    data = [{"id": name, "object": "model", "created": now, "owned_by": "lan-council"} for name in names]
    return {"object": "list", "data": data}


@router.post("/chat/completions")
async def described(body: ChatCompletion, request: Request) -> Response:
    """Chat as OpenAI spells it; the model `council` is the whole council.

    For the description only: requests are taken by `chat_completions`, before FastAPI's layers.
    """
    return await _answer_to(body, request)


async def chat_completions(request: Request) -> Response:
    """The end point for `DirectRoutes`: every error is told in OpenAI's shape."""
    try:
        return await _answer_to(await _read(request), request)
    except ClientDisconnect:
        return Response(status_code=499)
    except CouncilError as error:
        return JSONResponse(_openai_error(error), status_code=error.status, headers=error.headers)


async def _read(request: Request) -> ChatCompletion:
    if "json" not in request.headers.get("content-type", ""):
        raise InvalidRequestError(NOT_SENT_AS_JSON)
    try:
        return ChatCompletion.model_validate(json.loads(await request.body()))
    except ValidationError as error:
        raise InvalidRequestError(in_words(error.errors())) from error
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError(f"the body is not valid JSON: {error}") from error


async def _answer_to(body: ChatCompletion, request: Request) -> Response:
    master: Services = request.app.state.services
    trace = TraceContext.parse(request.headers.get("traceparent")) or TraceContext.new()
    try:
        council = body.model == COUNCIL_MODEL
        if body.stream:
            pieces = _council(body, master, trace) if council else _model(body, master, trace)
            return await _streamed(body, pieces, request)
        collected = _collect(_council(body, master, trace)) if council else _answered(body, master, trace)
        return await _whole(body, collected, request)
    except ValidationError as error:
        raise InvalidRequestError(in_words(error.errors())) from error


@dataclass(slots=True)
class _Piece:
    """What an answer is made of: text as it comes, then how it ended."""

    channel: Channel = "answer"
    text: str = ""
    usage: TokenUsage | None = None
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class _Collected:
    text: str
    thinking: str
    finish: str
    usage: TokenUsage


class _ToQueue(SilentWatcher):
    """Queues text as it comes. What the client has not taken yet grows, instead of a queue of many pieces."""

    def __init__(self, queue: asyncio.Queue[_Piece | CouncilError]) -> None:
        self._queue = queue
        self._last = _Piece()

    def delta(self, channel: Channel, text: str) -> None:
        if self._last.channel == channel and not self._queue.empty():
            self._last.text += text
        else:
            self._last = _Piece(channel, text)
            self._queue.put_nowait(self._last)


def _call(body: ChatCompletion, master: Services, trace: TraceContext) -> Call:
    _check_model(body, master)
    options = body.options()
    return Call(
        call_id=f"chat/{uuid4()}",
        model=body.model,
        messages=tuple(
            Message("system" if one.role == "developer" else one.role, one.text) for one in body.messages
        ),
        format=body.format(),
        options=options,
        expected_tokens=min(EXPECTED_TOKENS, options.get("num_predict") or EXPECTED_TOKENS),
        traceparent=str(trace.child()),
    )


def _check_model(body: ChatCompletion, master: Services) -> None:
    """Raise `ModelUnavailableError` where no engine that the call may use has the model."""
    if master.registry.nodes_with(body.model, answering=False):
        return
    if master.registry.nodes_with(body.model, answering=False, engine="background"):
        if body.is_flex:
            return
        raise ModelUnavailableError(
            f'only a background engine has {body.model}; `"service_tier": "flex"` would use it',
            model=body.model,
        )
    raise ModelUnavailableError(f"no node has {body.model}; see /v1/models", model=body.model)


async def _run(body: ChatCompletion, call: Call, watcher: CallWatcher, master: Services) -> Answer:
    if body.is_flex:
        return await master.background.run(call, watcher, wait_s=master.settings.queue_timeout_s)
    return await master.dispatcher.run(call, watcher)


def _finish(answer: Answer) -> str:
    return "length" if answer.done_reason == "length" else "stop"


async def _answered(body: ChatCompletion, master: Services, trace: TraceContext) -> _Collected:
    """One call of one model, whole: only what its last attempt wrote."""
    answer = await _run(body, _call(body, master, trace), SilentWatcher(), master)
    return _Collected(answer.text, answer.thinking, _finish(answer), answer.token_usage)


async def _model(body: ChatCompletion, master: Services, trace: TraceContext) -> AsyncIterator[_Piece]:
    """One call of one model. Closing the iterator cancels it down to the engine."""
    call = _call(body, master, trace)
    queue: asyncio.Queue[_Piece | CouncilError] = asyncio.Queue()

    async def run() -> None:
        try:
            answer = await _run(body, call, _ToQueue(queue), master)
            queue.put_nowait(_Piece(usage=answer.token_usage, finish=_finish(answer)))
        except CouncilError as error:
            queue.put_nowait(error)
        except Exception:
            _log.exception("a chat's call crashed", call_id=call.call_id)
            queue.put_nowait(InternalError("the call crashed; the log has the details"))

    task = asyncio.create_task(run(), name=call.call_id)
    try:
        while True:
            piece = await queue.get()
            if isinstance(piece, CouncilError):
                raise piece
            yield piece
            if piece.finish is not None:
                return
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _council(body: ChatCompletion, master: Services, trace: TraceContext) -> AsyncIterator[_Piece]:
    """The whole council on the last user message; its final answer is the text.

    Earlier messages are put before the question, marked, since a chat's history is the client's here.
    """
    runner, session = await master.council.create(
        CreateSession.model_validate({"question": _as_question(body), "options": body.options()}),
        traceparent=str(trace),
    )
    if runner is None:
        raise AssertionError("a session without a key is always new")
    try:
        sent = ""
        async for text in _synthesis_texts(runner):
            sent += text
            yield _Piece(text=text)
        ended = await master.council.get(session.id)
        if ended.state != "completed":
            raise (
                from_problem(ended.error) if ended.error else CancelledCallError("the council was cancelled")
            )
        if not sent:
            yield _Piece(text=ended.answer or "")
        total = ended.token_usage
        yield _Piece(
            usage=TokenUsage.of(total.total_prompt_tokens, total.total_completion_tokens), finish="stop"
        )
    finally:
        runner.cancel()  # a client that hung up wants no council; an ended one ignores this


async def _synthesis_texts(runner: SessionRunner) -> AsyncIterator[str]:
    """The chairman's words as they come. What a restarted or replaced chairman had said stays said."""
    async for _, data in runner.log.watch(0):
        event = json.loads(data)
        is_text = event["type"] == "call.delta" and event["stage"] == "synthesis"
        if is_text and event["channel"] == "answer":
            yield event["text"]


def _as_question(body: ChatCompletion) -> str:
    *earlier, last = body.messages
    if last.role != "user":
        raise InvalidRequestError("the last message has to be the user's")
    if not earlier:
        return last.text
    said = "\n\n".join(f"[{one.role}] {one.text}" for one in earlier)
    return f"The conversation so far:\n\n{said}\n\nThe question now:\n\n{last.text}"


async def _whole(body: ChatCompletion, answer: Awaitable[_Collected], request: Request) -> Response:
    collected = await unless_hung_up(answer, request)
    if collected is None:
        return Response(status_code=499)
    message: dict[str, Any] = {"role": "assistant", "content": collected.text}
    if collected.thinking:
        message["reasoning"] = collected.thinking
    whole = {
        **_head("chat.completion", body),
        "choices": [{"index": 0, "message": message, "finish_reason": collected.finish}],
        "usage": _usage(collected.usage),
    }
    return Response(_encode(whole), media_type="application/json")


async def _collect(answer: AsyncIterator[_Piece]) -> _Collected:
    texts: dict[Channel, list[str]] = {"answer": [], "thinking": []}
    finish, usage = "stop", TokenUsage()
    async for piece in answer:
        texts[piece.channel].append(piece.text)
        finish, usage = piece.finish or finish, piece.usage or usage
    return _Collected("".join(texts["answer"]), "".join(texts["thinking"]), finish, usage)


async def _streamed(body: ChatCompletion, answer: AsyncIterator[_Piece], request: Request) -> Response:
    """Wait for the first piece, so that an error before it is a status and not a stream."""
    first = await unless_hung_up(anext(answer), request)
    if first is None:
        return Response(status_code=499)
    return StreamingResponse(_chunks(body, first, answer), media_type="text/event-stream")


async def _chunks(body: ChatCompletion, first: _Piece, rest: AsyncIterator[_Piece]) -> AsyncIterator[bytes]:
    head = _head("chat.completion.chunk", body)
    # All but the text is the same in each chunk, and is encoded once.
    opening = b"data: " + _encode(head)[:-1] + b',"choices":[{"index":0,"delta":{"'
    closing = b'},"finish_reason":null}]}\n\n'
    yield _event({**head, "choices": [_choice({"role": "assistant", "content": ""})]})
    try:
        piece: _Piece | None = first
        while piece is not None:
            if piece.text:
                field = b'content":' if piece.channel == "answer" else b'reasoning":'
                yield b"".join((opening, field, _encode(piece.text), closing))
            if piece.finish is not None:
                yield _event({**head, "choices": [_choice({}, piece.finish)]})
                if body.stream_options is not None and body.stream_options.include_usage:
                    yield _event({**head, "choices": [], "usage": _usage(piece.usage or TokenUsage())})
            piece = await anext(rest, None)
        yield _DONE
    except CouncilError as error:
        yield _event(_openai_error(error))
    finally:
        await rest.aclose()  # type: ignore[attr-defined]  # both are async generators


def _head(kind: str, body: ChatCompletion) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
        **body.tier,
    }


def _choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _usage(usage: TokenUsage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _openai_error(error: CouncilError) -> dict[str, Any]:
    kind = "invalid_request_error" if error.status < 500 else "api_error"
    return {"error": {"message": error.detail, "type": kind, "param": None, "code": error.code}}
