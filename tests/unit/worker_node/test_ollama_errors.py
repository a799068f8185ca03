"""Every error text of Ollama and llama-server becomes the error that says what the caller can do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import (
    ContextOverflowError,
    CouncilError,
    EngineBusyError,
    EngineFailedError,
    EngineUnavailableError,
    InvalidRequestError,
    LoadTimeoutError,
    ModelNotFoundError,
    ModelOutputError,
    OutOfMemoryError,
)
from worker_node.engines.ollama_errors import classify, error_of_body

OVERFLOW = {
    "error": {
        "code": 400,
        "message": "request (27017 tokens) exceeds the available context size (4096 tokens)",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 27017,
        "n_ctx": 4096,
    }
}
INCOMPATIBLE = (
    "llama-server process has terminated: exit status 1: error loading model: this model may be "
    "incompatible with your version of Ollama. If you previously pulled this model, try updating it"
)
DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (404, "model 'x' not found", ModelNotFoundError),
        (404, 'model "x" not found, try pulling it first', ModelNotFoundError),
        (404, "model '' not found", ModelNotFoundError),
        (400, "model is required", InvalidRequestError),
        (400, "invalid model name", InvalidRequestError),
        (400, '"x" does not support chat', InvalidRequestError),
        (400, '"x" does not support thinking', InvalidRequestError),
        (503, "server busy, please try again.  maximum pending requests exceeded", EngineBusyError),
        (500, "model requires more system memory (8.0 GiB) than is available (3.1 GiB)", OutOfMemoryError),
        (500, "unable to load full model on GPU", OutOfMemoryError),
        (
            500,
            "llama-server process has terminated: exit status 1: error loading model: x",
            OutOfMemoryError,
        ),
        (500, INCOMPATIBLE, EngineFailedError),
        (500, "timed out waiting for llama-server to start - progress 0.50", LoadTimeoutError),
        (500, DIED, EngineFailedError),
        (400, "the input length exceeds the context length", ContextOverflowError),
        (
            400,
            "the prompt is longer than the context length currently available to the model; shorten it",
            ContextOverflowError,
        ),
        (400, json.dumps(OVERFLOW), ContextOverflowError),
        (400, f"llama-server: {json.dumps(OVERFLOW)}", ContextOverflowError),
        (500, 'option "num_ctx" must be of type integer', InvalidRequestError),
        (
            500,
            'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
            InvalidRequestError,
        ),
        (499, "request canceled", EngineFailedError),
        (401, "unauthorized", EngineUnavailableError),
        (None, "an error was encountered while running the model: unexpected EOF", EngineFailedError),
        (None, "model 'x' not found", ModelNotFoundError),
        (
            None,
            "llama-server chat error: map[code:500 message:Compute error. type:server_error]",
            EngineFailedError,
        ),
        (
            None,
            "llama-server chat error: map[code:400 message:request (9 tokens) exceeds the available context "
            "size (4 tokens) n_ctx:4 n_prompt_tokens:9 type:exceed_context_size_error]",
            ContextOverflowError,
        ),
        (None, "pull model manifest: file does not exist", ModelNotFoundError),
        (500, "something nobody has seen before", EngineFailedError),
    ],
)
def test_an_error_text_becomes_its_error(status: int | None, text: str, expected: type[CouncilError]) -> None:
    error = classify(text, status=status, model="m")
    assert type(error) is expected
    assert error.model == "m"


def test_the_message_inside_a_go_map_is_what_is_told() -> None:
    text = "llama-server chat error: map[code:500 message:Compute error. type:server_error]"
    assert classify(text, status=None, model=None).detail == "the engine says: Compute error."


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            503,
            {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}},
            EngineBusyError,
        ),
        (400, OVERFLOW, ContextOverflowError),
        (
            400,
            {
                "object": "error",
                "message": "This model's maximum context length is 4096 tokens. However, you requested 9000",
                "type": "BadRequestError",
                "code": 400,
            },
            ContextOverflowError,
        ),
        (
            404,
            {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError"}},
            ModelNotFoundError,
        ),
        (
            500,
            {
                "error": {
                    "message": "The model produced output that does not match the expected peg-native format"
                }
            },
            ModelOutputError,
        ),
        (
            401,
            {"error": {"message": "Invalid API Key", "type": "authentication_error"}},
            EngineUnavailableError,
        ),
        (500, [], EngineFailedError),
        (400, {"error": None}, InvalidRequestError),
    ],
)
def test_an_error_body_becomes_its_error(status: int, body: Any, expected: type[CouncilError]) -> None:
    assert type(error_of_body(status, json.dumps(body).encode(), model="m")) is expected


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"<html>502 Bad Gateway</html>", b'{"error":'])
def test_a_body_that_is_no_json_is_still_an_error(body: bytes) -> None:
    assert isinstance(error_of_body(502, body, model=None), EngineUnavailableError)


def test_a_busy_engine_says_when_to_come_again() -> None:
    assert classify("server busy", status=503, model=None).headers == {"Retry-After": "2"}
