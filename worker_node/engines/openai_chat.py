"""One streamed chat call to an OpenAI-compatible server, whoever started that server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import msgspec

from common.errors import CouncilError, EngineFailedError
from common.protocol import GenerateRequest
from worker_node.engines.base import EngineEvent, Text
from worker_node.engines.ollama_errors import classify, error_of_body
from worker_node.engines.openai_wire import Chunk, Dialect, Timings, Usage, chat_body, chunk_decoder, finished
from worker_node.engines.sse import EventReader
from worker_node.engines.wire_client import (
    TRANSPORT_ERRORS,
    WireClient,
    encode_json,
    read_the_end,
    trace_headers,
)

CHAT_PATH: Final = "/chat/completions"


async def stream_chat(
    wire: WireClient,
    request: GenerateRequest,
    *,
    model: str,
    dialect: Dialect = "openai",
    path: str = CHAT_PATH,
) -> AsyncIterator[EngineEvent]:
    """Stream `request` to `wire`'s server as `model`: `Text`s and one `Finished`, or a `CouncilError`.

    `path` is relative to the client's base URL. Closing the iterator hangs up, which cancels the call there.
    """
    body = encode_json(chat_body(request, model=model, dialect=dialect))
    reader = partial(error_of_body, model=model)
    state = _Stream(model)
    async with await wire.open(path, body, trace_headers(request), reader) as response:
        content = response.content
        try:
            while data := await content.readany():
                thinking, answer = state.feed(data)
                ends = state.events.ended
                if thinking:
                    yield Text("thinking", thinking, ends)
                if answer:
                    yield Text("answer", answer, ends)
                if state.failure is not None:
                    raise state.failure
                if ends:
                    break
        except TRANSPORT_ERRORS as error:
            raise wire.cut(error, model) from error
        except ValueError as error:
            raise EngineFailedError(f"the engine's stream cannot be read: {error}", model=model) from error
        if not state.events.ended:
            state.end()
        if not state.events.ended:
            raise wire.cut(None, model)
        try:
            yield finished(state.reason, state.usage, state.timings)
        finally:
            await read_the_end(content)


class _Stream:
    """What the chunks so far said besides their text."""

    def __init__(self, model: str) -> None:
        self.events = EventReader()
        self.reason: str | None = None
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.failure: CouncilError | None = None
        self._model = model

    def feed(self, data: bytes) -> tuple[str, str]:
        """The text of one read by channel: thinking and answer, up to the `failure` if there is one."""
        thinking = answer = ""
        for payload in self.events.feed(data):
            try:
                chunk = self._decoded(payload)
            except CouncilError as error:
                self.failure = error
                break
            if chunk.usage is not None:
                self.usage = chunk.usage
            if chunk.timings is not None:
                self.timings = chunk.timings
            for choice in chunk.choices or ():
                if choice.finish_reason:
                    self.reason = choice.finish_reason
                delta = choice.delta
                if delta is None:
                    continue
                if delta.content:
                    answer += delta.content
                if thought := delta.reasoning_content or delta.reasoning:
                    thinking += thought
        return thinking, answer

    def end(self) -> None:
        """The body is over. An error in its last, unended line still counts; half a chunk does not."""
        for payload in self.events.rest():
            try:
                chunk = chunk_decoder.decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return
            if chunk.error is not None:
                raise classify(chunk.error, status=None, model=self._model)

    def _decoded(self, payload: bytes) -> Chunk:
        try:
            chunk = chunk_decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineFailedError(
                f"the engine sent an event that cannot be read: {error}", model=self._model
            ) from error
        if chunk.error is not None:
            raise classify(chunk.error, status=None, model=self._model)
        return chunk
