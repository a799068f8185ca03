"""What happened: one record per request, and the counters. Times are milliseconds of the loop's clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RUNNING = "running"


@dataclass
class CallRecord:
    """One received request.

    `outcome` is "running", then one of "done" (the closing line was sent), "error" (an HTTP error or an
    error line), "cancelled" (the caller left), "cut" (the server dropped the connection) or "no_done" (EOF
    without `done`).
    """

    id: int
    kind: str
    """chat, generate, embed, or the management route; OpenAI's dialect has `dialect` "openai"."""
    dialect: str
    model: str
    received_ms: float
    options: dict[str, Any] = field(default_factory=dict)
    format_present: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)
    prompt: str | None = None
    stream: bool = False
    request: dict[str, Any] = field(default_factory=dict)
    loaded_ms: float | None = None
    started_ms: float | None = None
    """When it held a slot of the loaded model."""
    first_token_ms: float | None = None
    finished_ms: float | None = None
    cancelled_ms: float | None = None
    outcome: str = RUNNING
    status: int | None = None
    error: str | None = None
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    """As reported to the client; None if it was not reported."""
    eval_count: int | None = None
    tokens_sent: int = 0
    text: str = ""
    dropped_messages: int = 0
    faults: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All fields; `request` without what other fields already hold."""
        shown = dict(vars(self))
        shown["request"] = {
            k: v for k, v in self.request.items() if k not in ("messages", "prompt", "options")
        }
        return shown


@dataclass
class Counters:
    """Sums since the start or the last reset."""

    requests: int = 0
    done: int = 0
    errors: int = 0
    cancelled: int = 0
    loads: int = 0
    """Every completed load, reloads and those after an eviction included."""
    reloads: int = 0
    """Loads of a model that was loaded with other load-time options."""
    evictions: int = 0
    aborted_loads: int = 0
    in_flight: dict[str, int] = field(default_factory=dict)
    """Slots held now, by model."""
    peak_in_flight: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    """Calls that wait for a slot of a loaded model."""


class Journal:
    """The records, oldest first (at most `limit` of them), and the counters."""

    def __init__(self, limit: int = 20_000) -> None:
        self.records: deque[CallRecord] = deque(maxlen=limit)
        self.counters = Counters()
        self._next_id = 1
        self._watchers: list[tuple[Callable[[], object], asyncio.Future[None]]] = []

    def open(self, kind: str, dialect: str, model: str, received_ms: float) -> CallRecord:
        record = CallRecord(self._next_id, kind, dialect, model, received_ms)
        self._next_id += 1
        self.records.append(record)
        self.counters.requests += 1
        self.changed()
        return record

    def close(self, record: CallRecord, outcome: str, now_ms: float) -> None:
        """Fix the outcome; the first one holds."""
        if record.outcome != RUNNING:
            return
        record.outcome = outcome
        record.finished_ms = now_ms
        if outcome == "done":
            self.counters.done += 1
        elif outcome == "cancelled":
            record.cancelled_ms = now_ms
            self.counters.cancelled += 1
        else:
            self.counters.errors += 1
        self.changed()

    def slot_taken(self, model: str) -> None:
        counters = self.counters
        held = counters.in_flight.get(model, 0) + 1
        counters.in_flight[model] = held
        if held > counters.peak_in_flight.get(model, 0):
            counters.peak_in_flight[model] = held
        self.changed()

    def slot_freed(self, model: str) -> None:
        self.counters.in_flight[model] = max(0, self.counters.in_flight.get(model, 0) - 1)
        self.changed()

    def wait_changed(self, model: str, by: int) -> None:
        self.counters.waiting[model] = max(0, self.counters.waiting.get(model, 0) + by)
        self.changed()

    def reset(self) -> None:
        """Forget records and sums; slots held at this moment stay counted."""
        held = {model: count for model, count in self.counters.in_flight.items() if count}
        waiting = {model: count for model, count in self.counters.waiting.items() if count}
        self.records.clear()
        self.counters = Counters(in_flight=held, peak_in_flight=dict(held), waiting=waiting)
        self.changed()

    def changed(self) -> None:
        """Let those who wait look again."""
        if self._watchers:
            for predicate, future in self._watchers:
                if not future.done() and predicate():
                    future.set_result(None)

    async def until(self, predicate: Callable[[], object], timeout_s: float) -> None:
        """Return when `predicate` is true; it is asked after each change. TimeoutError after `timeout_s`."""
        if predicate():
            return
        watcher = (predicate, asyncio.get_running_loop().create_future())
        self._watchers.append(watcher)
        try:
            async with asyncio.timeout(timeout_s):
                await watcher[1]
        finally:
            self._watchers.remove(watcher)
