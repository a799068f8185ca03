"""Follow the events of one session over a socket that may break: each event reaches the watch once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable

from common.no_answer import why_no_answer
from master.cli.client import MasterClient
from master.cli.failure import CommandFailedError, NoMasterError
from master.cli.watch import ENDED_STATES, SequenceGapError, Watch

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
GIVE_UP_AFTER_S = 60.0
PING_S = 5.0  # a connection that is open and dead is left after twice this
LOOK_S = 10.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # a snapshot of sixteen long answers, with room


class Follower:
    """Brings a `Watch` up to the end of its session.

    `on_event` is called after each event that was new; `on_trouble` with a line when the connection is
    lost and with None when it is back.
    """

    def __init__(
        self,
        client: MasterClient,
        watch: Watch,
        *,
        on_event: Callable[[], None] = lambda: None,
        on_trouble: Callable[[str | None], None] = lambda _text: None,
        give_up_after_s: float = GIVE_UP_AFTER_S,
    ) -> None:
        self._client = client
        self._watch = watch
        self._on_event = on_event
        self._on_trouble = on_trouble
        self._give_up_after_s = give_up_after_s
        self._failures = 0
        self._last_progress = time.monotonic()
        self._gap_at: int | None = None

    @property
    def _address(self) -> str:
        base = self._client.url.replace("http", "ws", 1)
        return f"{base}/api/council/sessions/{self._watch.session_id}/events?after={self._watch.seq}"

    async def run(self) -> None:
        """Return when the session has ended. Raises `CommandFailedError` when the master stays away."""
        while not self._watch.ended:
            try:
                await self._read_socket()
                trouble = "the connection ended"
            except CommandFailedError:
                raise
            except SequenceGapError as gap:
                # Asked twice and missing twice: the master no longer has it, and going on beats stopping.
                self._gap_at = gap.after
                trouble = "an event is missing"
            except (OSError, TimeoutError) as error:
                trouble = (error.errno is None and str(error)) or why_no_answer(error)
            if self._watch.ended or await self._ended_unseen():
                return
            await self._back_off(trouble)

    async def _read_socket(self) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

        try:
            async with connect(
                self._address,
                additional_headers=self._client.headers,
                proxy=None,
                ssl=self._client.verify or None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=10,
                close_timeout=2,
                ping_interval=PING_S,
                ping_timeout=PING_S,
            ) as socket:
                async for message in socket:
                    self._take(message)
                    if self._watch.ended:
                        return
        except ConnectionClosed:
            return
        except InvalidURI as error:
            raise NoMasterError(self._client.url, "not an address") from error
        except InvalidStatus as error:
            status = error.response.status_code
            if status in (401, 403, 404):
                # REST says the same with a reason that can be shown.
                await self._client.get(f"/api/council/sessions/{self._watch.session_id}")
                raise CommandFailedError(f"the master refused the session's events ({status})") from error
            raise ConnectionError(f"the master answered {status}") from error
        except InvalidHandshake as error:
            raise ConnectionError(str(error)) from error

    def _take(self, message: str | bytes) -> None:
        try:
            event = json.loads(message)
        except ValueError as error:
            raise CommandFailedError("the master sent an event that is not JSON") from error
        if not isinstance(event, dict):
            raise CommandFailedError("the master sent an event that is not an object")
        accept_gap = self._gap_at is not None and self._gap_at == self._watch.seq
        if not self._watch.apply(event, time.monotonic(), accept_gap=accept_gap):
            return
        self._gap_at = None
        if self._failures:
            self._failures = 0
            self._on_trouble(None)
        self._last_progress = time.monotonic()
        self._on_event()

    async def _ended_unseen(self) -> bool:
        """Whether the session ended while no socket was open and its events are no longer held."""
        try:
            async with asyncio.timeout(LOOK_S):  # the client's own patience is that of long requests
                session = await self._client.get(f"/api/council/sessions/{self._watch.session_id}")
        except (NoMasterError, TimeoutError):
            return False
        if session.get("state") not in ENDED_STATES:
            self._last_progress = time.monotonic()
            return False
        if self._failures == 0:
            return False  # one more look: the last events are most likely still held
        self._watch.apply({"type": "snapshot", "seq": self._watch.seq, "session": session}, time.monotonic())
        self._on_event()
        return True

    async def _back_off(self, trouble: str) -> None:
        if time.monotonic() - self._last_progress > self._give_up_after_s:
            raise NoMasterError(self._client.url, trouble)
        if self._failures:
            self._on_trouble(trouble)
        longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures, 10))
        self._failures += 1
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))
