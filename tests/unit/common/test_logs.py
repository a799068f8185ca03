"""What is logged, and what is no error."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from common import logs


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root, server = logging.getLogger(), logging.getLogger("uvicorn.error")
    handlers, level, filters = root.handlers[:], root.level, server.filters[:]
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(fmt="json", program="test")
    yield stream
    structlog.reset_defaults()
    root.handlers[:], server.filters[:] = handlers, filters
    root.setLevel(level)


@pytest.mark.parametrize(
    ("error", "level", "traced"),
    [(asyncio.CancelledError("timeout"), "info", False), (ValueError("a fault"), "error", True)],
    ids=["cut short", "a fault"],
)
def test_only_a_fault_of_a_request_is_an_error_with_a_trace(
    written: io.StringIO, error: BaseException, level: str, traced: bool
) -> None:
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    line = json.loads(written.getvalue())
    assert (line["level"], "exception" in line) == (level, traced)
