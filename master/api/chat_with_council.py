"""A chat with the whole council: its question is the last message, its answer what the chairman writes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from common.asgi import JSON_HEADERS, Send, send_body
from common.errors import CancelledCallError, InvalidRequestError, from_problem
from common.telemetry import TraceContext
from common.usage import TokenUsage
from master.api.chat_stream import ChatStream
from master.api.openai_shapes import Answered, ChatCompletion, new_id, whole
from master.api.schemas import CreateSession
from master.council.runner import SessionRunner
from master.services import Services


async def answer(asked: ChatCompletion, master: Services, trace: TraceContext, send: Send) -> None:
    """Answer when the council has."""
    async with _convened(asked, master, trace) as runner:
        text, end = await _heard(runner, master, _unheard)
        await send_body(send, 200, JSON_HEADERS, whole(asked, new_id(), text, "", end))


async def stream(asked: ChatCompletion, master: Services, trace: TraceContext, out: ChatStream) -> None:
    """Answer as the chairman writes. The seats come first, and clients that hear nothing for so long give up:
    so the stream begins with the council, and is kept alive.
    """
    async with _convened(asked, master, trace) as runner:
        async with out.kept_alive():
            _, end = await _heard(runner, master, lambda text: out.text("answer", text))
        await out.end(end)


@asynccontextmanager
async def _convened(
    asked: ChatCompletion, master: Services, trace: TraceContext
) -> AsyncIterator[SessionRunner]:
    """A council that ends with the block, at the latest."""
    runner, _ = await master.council.create(
        CreateSession.model_validate({"question": _as_question(asked), "options": asked.options()}),
        traceparent=str(trace),
    )
    if runner is None:
        raise AssertionError("a session without a key is always new")
    try:
        yield runner
    finally:
        runner.cancel()  # a client that hung up wants no council; an ended one ignores this


async def _heard(
    runner: SessionRunner, master: Services, said: Callable[[str], Awaitable[None]]
) -> tuple[str, Answered]:
    """Tell what is written of the final answer; the whole text, and what it cost."""
    has_said = await _follow(runner, said)
    ended = await master.council.get(runner.id)
    if ended.state != "completed":
        raise from_problem(ended.error) if ended.error else CancelledCallError("the council was cancelled")
    if not has_said:
        await said(ended.answer or "")
    total = ended.token_usage
    usage = TokenUsage.of(total.total_prompt_tokens, total.total_completion_tokens)
    return ended.answer or "", Answered("stop", usage)


async def _follow(runner: SessionRunner, said: Callable[[str], Awaitable[None]]) -> bool:
    """Hand on the chairman's words as they come. What a chairman who was lost or replaced had said stays
    said, since clients cannot be told to forget it; they are told that another answer begins.
    """
    has_said = begins_anew = False
    async for _, data in runner.log.watch(0):
        event = json.loads(data)
        if event.get("stage") != "synthesis":
            continue
        if event["type"] in ("call.restarted", "call.failed"):
            begins_anew = has_said
        elif event["type"] == "call.delta" and event["channel"] == "answer":
            if begins_anew:
                begins_anew = False
                await said("\n\n*(cut off; the answer begins anew)*\n\n")
            has_said = True
            await said(event["text"])
    return has_said


async def _unheard(_text: str) -> None:
    """The whole answer is asked for, not its making."""


def _as_question(asked: ChatCompletion) -> str:
    """Earlier messages are put before the question, marked, since a chat's history is the client's here."""
    *earlier, last = asked.messages
    if last.role != "user":
        raise InvalidRequestError("the last message has to be the user's")
    if not earlier:
        return last.text
    said = "\n\n".join(f"[{one.role}] {one.text}" for one in earlier)
    return f"The conversation so far:\n\n{said}\n\nThe question now:\n\n{last.text}"
