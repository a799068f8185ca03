"""OpenAI's API: `council` is the whole council, a named model is one call on the best node."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from common.asgi import ClientGoneError, Receive, Scope, Send, UntilHangUp, header, read_body
from common.errors import CouncilError, InternalError, InvalidRequestError, MalformedBodyError
from common.logs import get_logger
from common.telemetry import TraceContext
from master.api import chat_with_council, chat_with_model
from master.api.chat_stream import ChatStream
from master.api.guard import MAX_BODY_BYTES
from master.api.models import cluster_models
from master.api.openai_shapes import COUNCIL_MODEL, ChatCompletion, openai_error
from master.api.problems import NOT_SENT_AS_JSON, in_words
from master.services import Master, Services

router = APIRouter(prefix="/v1", tags=["openai"])
CHAT_PATH = "/v1/chat/completions"
_log = get_logger(__name__)


@router.get("/models")
async def list_models(master: Master) -> dict[str, Any]:
    now = int(time.time())
    names = [COUNCIL_MODEL, *(entry["name"] for entry in cluster_models(master.registry))]
    data = [{"id": name, "object": "model", "created": now, "owned_by": "lan-council"} for name in names]
    return {"object": "list", "data": data}


@router.post("/chat/completions")
async def described(body: ChatCompletion) -> dict[str, Any]:
    """Chat as OpenAI spells it; the model `council` is the whole council."""
    raise AssertionError("for the description only: `chat_completions` takes requests before FastAPI does")


async def chat_completions(scope: Scope, receive: Receive, send: Send) -> None:
    """The end point, as `direct` calls it: every error is told in OpenAI's shape."""
    stream: ChatStream | None = None
    try:
        asked = _read(scope, await read_body(receive, MAX_BODY_BYTES))
        master: Services = scope["app"].state.services
        caller = TraceContext.parse(header(scope, b"traceparent"))
        trace = TraceContext.new() if caller is None else caller.child()
        chat = chat_with_council if asked.model == COUNCIL_MODEL else chat_with_model
        with UntilHangUp(scope):
            if not asked.stream:
                await chat.answer(asked, master, trace, send)
                return
            stream = ChatStream(asked, scope, send)
            await chat.stream(asked, master, trace, stream)
    except ClientGoneError:
        return
    except ValidationError as error:
        await _fail(InvalidRequestError(in_words(error.errors())), stream, scope, receive, send)
    except CouncilError as error:
        await _fail(error, stream, scope, receive, send)
    except Exception:
        # The request's edge: whatever went wrong, the client gets an answer and the log the story.
        _log.exception("a chat crashed")
        crash = InternalError("the master failed; its log has the details")
        await _fail(crash, stream, scope, receive, send)


def _read(scope: Scope, body: bytes) -> ChatCompletion:
    if "json" not in (header(scope, b"content-type") or ""):
        raise InvalidRequestError(NOT_SENT_AS_JSON)
    try:
        return ChatCompletion.model_validate(json.loads(body))
    except ValidationError as error:
        raise InvalidRequestError(in_words(error.errors())) from error
    except (ValueError, RecursionError) as error:
        raise MalformedBodyError(f"the body is not valid JSON: {error}") from error


async def _fail(
    error: CouncilError, stream: ChatStream | None, scope: Scope, receive: Receive, send: Send
) -> None:
    """As a status, or in the stream where one has begun."""
    if stream is not None and stream.has_begun:
        await stream.fail(error)
        return
    response = JSONResponse(openai_error(error), status_code=error.status, headers=error.headers)
    await response(scope, receive, send)
