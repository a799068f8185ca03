"""A chat with one model of the cluster: one call on the best node."""

from __future__ import annotations

from common.asgi import JSON_HEADERS, Send, send_body
from common.errors import ModelUnavailableError
from common.protocol import Channel, Message
from common.telemetry import TraceContext
from master.api.chat_stream import ChatStream
from master.api.openai_shapes import Answered, ChatCompletion, new_id, whole
from master.cluster.calls import Answer, AttemptFailure, Call, CallWatcher, SilentWatcher, conversation_key
from master.services import Services

EXPECTED_TOKENS = 256  # of an answer, for placement, where the client allows as many


async def answer(asked: ChatCompletion, master: Services, trace: TraceContext, send: Send) -> None:
    """Answer at once, with what the last attempt wrote and nothing of those before it."""
    chat_id = new_id()
    found = await _run(asked, _call(asked, master, trace, chat_id), SilentWatcher(), master)
    await send_body(send, 200, JSON_HEADERS, whole(asked, chat_id, found.text, found.thinking, _end(found)))


async def stream(asked: ChatCompletion, master: Services, trace: TraceContext, out: ChatStream) -> None:
    """Answer as the words come, in the task of the request: nothing is handed on per word."""
    found = await _run(asked, _call(asked, master, trace, out.chat_id), _ToClient(out), master)
    await out.end(_end(found))


class _ToClient(SilentWatcher):
    """Hands text on as it is read. OpenAI's clients cannot be told to forget what they have of an attempt
    that broke; so they are told, in the text, that the answer begins anew.
    """

    def __init__(self, out: ChatStream) -> None:
        self._out = out
        self._notice = ""

    async def delta(self, channel: Channel, text: str) -> None:
        if self._notice:
            notice, self._notice = self._notice, ""
            await self._out.text("answer", notice)
        await self._out.text(channel, text)

    async def attempt_failed(self, failure: AttemptFailure, *, will_restart: bool) -> None:
        if will_restart and failure.text:
            self._notice = f"\n\n*(cut off on {failure.node}; the answer begins anew)*\n\n"


def _call(asked: ChatCompletion, master: Services, trace: TraceContext, chat_id: str) -> Call:
    _check_model(asked, master)
    options = asked.options()
    messages = tuple(
        Message("system" if one.role == "developer" else one.role, one.text) for one in asked.messages
    )
    return Call(
        call_id=f"chat/{chat_id}",
        model=asked.model,
        messages=messages,
        format=asked.format(),
        options=options,
        conversation_key=conversation_key(messages),
        expected_tokens=min(EXPECTED_TOKENS, options.get("num_predict") or EXPECTED_TOKENS),
        traceparent=str(trace),
    )


def _check_model(asked: ChatCompletion, master: Services) -> None:
    """Raise `ModelUnavailableError` where no engine that the call may use has the model."""
    if master.registry.has(asked.model, answering=False):
        return
    if master.registry.has(asked.model, answering=False, engine="background"):
        if asked.is_flex:
            return
        raise ModelUnavailableError(
            f'only a background engine has {asked.model}; `"service_tier": "flex"` would use it',
            model=asked.model,
        )
    raise ModelUnavailableError(f"no node has {asked.model}; see /v1/models", model=asked.model)


async def _run(asked: ChatCompletion, call: Call, watcher: CallWatcher, master: Services) -> Answer:
    if asked.is_flex:
        return await master.background.run(call, watcher, wait_s=master.settings.queue_timeout_s)
    return await master.dispatcher.run(call, watcher)


def _end(answer: Answer) -> Answered:
    return Answered("length" if answer.done_reason == "length" else "stop", answer.token_usage)
