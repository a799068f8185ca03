"""`POST /api/generate` and its batch form, as raw ASGI: this is the path of every token.

Per call there is the request's own task and one timer, which looks once a second whether a sign of life is
due. Nothing is created per chunk.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from common.asgi import (
    JSON_HEADERS,
    ClientGoneError,
    Receive,
    Scope,
    Send,
    UntilHangUp,
    read_body,
    send_body,
)
from common.errors import CouncilError, InternalError, InvalidRequestError
from common.logs import bind_for_good, get_logger
from common.protocol import (
    HEARTBEAT_S,
    BatchRequest,
    GenerateRequest,
    GenerateResponse,
    encoder,
)
from common.telemetry import TraceContext
from worker_node.answer import Answer
from worker_node.asgi import decode_body
from worker_node.service import NodeService

log = get_logger(__name__)

BODY_LIMIT: Final = 8 * 1024 * 1024
BATCH_BODY_LIMIT: Final = 32 * 1024 * 1024
BATCH_LIMIT: Final = 256
_request_decoder = msgspec.json.Decoder(GenerateRequest)
_batch_decoder = msgspec.json.Decoder(BatchRequest)


class GenerateRoute:
    """The ASGI end points that run calls."""

    def __init__(self, service: NodeService, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._service = service
        self._heartbeat_s = heartbeat_s

    async def generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call, streamed or not."""
        answer = Answer(send, self._heartbeat_s)
        try:
            request = decode_body(_request_decoder, await read_body(receive, BODY_LIMIT))
            request = _with_ids(request, scope)
            trace = TraceContext.parse(request.traceparent)
            # For the rest of this request's own task.
            bind_for_good(
                request_id=request.request_id,
                trace_id=trace.trace_id if trace else None,
                node=self._service.name,
            )
            with UntilHangUp(scope):
                if request.stream:
                    async with answer:
                        answer.call = call = await self._service.open(request)
                        await call.run(answer.messages)
                    return
                response = await (await self._service.open(request)).response()
            await send_body(send, 200, JSON_HEADERS, encoder.encode(response))
        except ClientGoneError:
            return
        except CouncilError as error:
            await answer.fail(error)
        except Exception:
            # The request's edge: whatever went wrong, the caller gets an answer and the log the story.
            log.exception("a call failed in the node itself")
            await answer.fail(InternalError("the node failed; its log has the details"))

    async def batch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Several calls at once, never more per model than its slots, answered together and in order."""
        answer = Answer(send, self._heartbeat_s)
        try:
            batch: BatchRequest = decode_body(_batch_decoder, await read_body(receive, BATCH_BODY_LIMIT))
            if len(batch.requests) > BATCH_LIMIT:
                raise InvalidRequestError(
                    f"a batch holds at most {BATCH_LIMIT} requests; this one has {len(batch.requests)}"
                )
            requests = [_with_ids(request, scope) for request in batch.requests]
            with UntilHangUp(scope):
                results = await self._run_batch(requests)
            await send_body(send, 200, JSON_HEADERS, encoder.encode({"results": results}))
        except ClientGoneError:
            return
        except CouncilError as error:
            await answer.fail(error)
        except Exception:
            log.exception("a batch failed in the node itself")
            await answer.fail(InternalError("the node failed; its log has the details"))

    async def _run_batch(self, requests: list[GenerateRequest]) -> list[GenerateResponse | dict[str, object]]:
        turns: dict[tuple[str, str], asyncio.Semaphore] = {}

        async def one(request: GenerateRequest) -> GenerateResponse | dict[str, object]:
            try:
                call = await self._service.open(request)
                # A batch longer than the node's queue waits here instead of being refused there.
                turn = turns.setdefault(
                    (request.engine, call.model.name), asyncio.Semaphore(call.model.slots)
                )
                async with turn:
                    return await call.response()
            except CouncilError as error:
                return {"error": error.to_problem()}

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in requests]
        return [task.result() for task in tasks]


def _with_ids(request: GenerateRequest, scope: Scope) -> GenerateRequest:
    """The request with the ids of the headers, where its body names none."""
    if request.traceparent is not None and request.request_id is not None:
        return request
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name == b"traceparent" and request.traceparent is None:
            found["traceparent"] = value.decode("latin-1")
        elif name == b"x-request-id" and request.request_id is None:
            found["request_id"] = value.decode("latin-1")[:200]
    return msgspec.structs.replace(request, **found) if found else request
