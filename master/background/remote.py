"""The master as a worker process of jobs sees it: model calls and the gate, over HTTP.

Calls go through the master so that its lanes, its gate and the daily caps hold for every process; the master
also keeps their rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from common.errors import CouncilError, EngineFailedError, NodeUnreachableError, from_problem
from common.usage import CallLatency, TokenUsage
from master.background.run import job_of
from master.cluster.calls import Answer, Call, CallWatcher

GATE_EVERY_S = 1.0
_CONNECT_S = 5.0
_READ_S = 15.0
CALL_PATH = "/api/background/call"
GATE_PATH = "/api/background/gate"


@dataclass(frozen=True, slots=True)
class Told:
    """What the master said of its gate."""

    open: bool
    reason: str


class MasterLink:
    """One master. `executor_id` is set once the executor is made that speaks through it."""

    def __init__(self, url: str, *, key: str | None, verify: ssl.SSLContext | bool = True) -> None:
        self.url = url
        self.executor_id = ""
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S),
            trust_env=False,
            verify=verify,
        )
        self._short = self._long = Told(False, f"the master at {url} has not been asked yet")
        self._listeners: set[asyncio.Event] = set()

    # -- model calls ----------------------------------------------------------------------------------------

    async def run(self, call: Call, watcher: CallWatcher) -> Answer:
        """See `Model.run`. Cancelling it hangs up, which ends the call in its engine."""
        del watcher  # the master keeps the rows of its attempts
        body = {
            "job_id": job_of(call),
            "executor": self.executor_id,
            "model": call.model or None,
            "messages": [{"role": one.role, "content": one.content} for one in call.messages],
            "format": call.format,
            "options": dict(call.options),
            "think": call.think,
            "prefix_key": call.prefix_key,
            "expected_tokens": call.expected_tokens,
        }
        told = await self._json("POST", CALL_PATH, body, timeout=httpx.Timeout(None, connect=_CONNECT_S))
        usage, latency = told.pop("token_usage"), told.pop("latency")
        return Answer(token_usage=TokenUsage(**usage), latency=CallLatency(**latency), **told)

    async def _json(self, method: str, path: str, body: object = None, **named: Any) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, json=body, **named)
        except httpx.HTTPError as error:
            raise NodeUnreachableError(f"the master at {self.url} does not answer ({error})") from error
        if response.status_code in (401, 403):
            # Not the job's doing: it waits until the key is right again.
            raise NodeUnreachableError(f"the master at {self.url} refuses the key of this worker")
        try:
            told: dict[str, Any] = response.json()
        except ValueError as error:
            raise EngineFailedError(f"{self.url} answered with something that is not JSON") from error
        if response.status_code >= 400:
            raise from_problem(told)
        return told

    # -- the gate -------------------------------------------------------------------------------------------

    async def ask(self) -> None:
        """Ask for the gate once. Raises when the master does not answer, or refuses the key."""
        told = await self._json("GET", GATE_PATH)
        self._hear(
            Told(told["open"], told["reason"]),
            Told(told["open_for_long_jobs"], told["reason_for_long_jobs"]),
        )

    def _hear(self, short: Told, long: Told) -> None:
        moved = (short.open, long.open) != (self._short.open, self._long.open)
        self._short, self._long = short, long
        if moved:
            for event in self._listeners:
                event.set()

    def verdict(self, node: str | None = None, *, long: bool = False) -> Told:
        del node
        return self._long if long else self._short

    async def passed(self, node: str | None = None, *, long: bool = False) -> None:
        with self.changes() as changed:
            while not self.verdict(node, long=long).open:
                await changed.wait()
                changed.clear()

    @contextmanager
    def changes(self) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)

    # -- life -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the gate; while the master is away it counts as closed."""
        task = asyncio.create_task(self._follow(), name="follow the master's gate")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self.ask()
            except CouncilError as error:
                self._hear(Told(False, error.detail), Told(False, error.detail))
            await asyncio.sleep(GATE_EVERY_S)

    async def close(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self._http.aclose()
