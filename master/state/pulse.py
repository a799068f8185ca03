"""Whether the database takes writes, for `/health`: looked at once a second, however many ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from common.errors import CouncilError

_FRESH_S = 1.0
CONNECTED = "connected"


class Pulse:
    """Anybody may ask for `/health`, and each look is a write. A database that was well is believed for a
    second; one that was not is looked at for whoever asks next, and all who wait share that look.
    """

    def __init__(
        self, check: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`check` writes something. Raises a storage error where that fails."""
        self._check = check
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._found = ""

    async def state(self) -> str:
        """`connected`, or the code of the error."""
        asked_at = self._clock()
        async with self._looking:
            believed_s = _FRESH_S if self._found == CONNECTED else 0.0
            if self._looked_at + believed_s <= asked_at:
                try:
                    await self._check()
                    self._found = CONNECTED
                except CouncilError as error:
                    self._found = error.code
                self._looked_at = self._clock()
            return self._found
