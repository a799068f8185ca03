"""Structured logs: one JSON object a line, or readable lines on a terminal.

Ids travel in context variables: what `bind` sets in a task is on every line that the task and its children
log. Prompts and answers are never logged.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

Logger = structlog.stdlib.BoundLogger


def configure(*, level: str = "info", fmt: str = "auto", program: str) -> None:
    """Set logging up for a whole process; everything goes to standard error."""
    as_json = fmt == "json" or (fmt == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _program_adder(program),
    ]
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        final.append(structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*final, renderer])
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "aiosqlite", "alembic", "uvicorn.access", "asyncio", "gguf"):
        logging.getLogger(noisy).setLevel("WARNING")
    logging.getLogger("uvicorn.error").addFilter(_cut_short)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _cut_short(record: logging.LogRecord) -> bool:
    """A request that the end of the server cut short is no error of ours, and needs no trace."""
    if record.exc_info is None:
        return True
    import asyncio  # late: no command that only prints its help needs it

    if isinstance(record.exc_info[1], asyncio.CancelledError):
        record.msg, record.args = "a request was cut short: the server stops", ()
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.exc_info, record.exc_text = None, None
    return True


def _program_adder(program: str) -> Any:
    def add(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event.setdefault("program", program)
        return event

    return add


def get_logger(name: str) -> Logger:
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


class bind:
    """Put ids (`session_id`, `call_id`, `node`, `trace_id`, …) on every line logged inside a `with`."""

    __slots__ = ("_before", "_ids")

    def __init__(self, **ids: str | None) -> None:
        self._ids = {name: value for name, value in ids.items() if value is not None}

    def __enter__(self) -> None:
        self._before = structlog.contextvars.bind_contextvars(**self._ids)

    def __exit__(self, *_: object) -> None:
        structlog.contextvars.reset_contextvars(**self._before)


def bind_for_good(**ids: str | None) -> None:
    """Put ids on every line that this task logs from now on."""
    structlog.contextvars.bind_contextvars(**{name: one for name, one in ids.items() if one is not None})
