"""Keeps what the speeds learn: read at the start, written every few seconds and at the end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

from common.errors import CouncilError
from common.logs import get_logger
from master.cluster.speeds import Learned, Speeds

WRITE_EVERY_S = 5.0
_log = get_logger(__name__)


class SpeedStore(Protocol):
    """Where learned speeds are kept."""

    @property
    def list(self) -> Callable[[], Awaitable[list[Learned]]]: ...

    @property
    def keep(self) -> Callable[[Iterable[Learned]], Awaitable[None]]: ...


@asynccontextmanager
async def keeping(
    speeds: Speeds, store: SpeedStore, *, every_s: float = WRITE_EVERY_S
) -> AsyncIterator[None]:
    """Restore what was kept, then keep what changes, until the end of the block."""
    speeds.restore(row for row in await store.list() if _is_sound(row.value) and _is_sound(row.usual))
    task = asyncio.create_task(_write_for_ever(speeds, store, every_s), name="keep speeds")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _write(speeds, store)


def _is_sound(value: float) -> bool:
    return math.isfinite(value) and value >= 0


async def _write_for_ever(speeds: Speeds, store: SpeedStore, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await _write(speeds, store)


async def _write(speeds: Speeds, store: SpeedStore) -> None:
    rows = speeds.changed()
    if not rows:
        return
    try:
        await store.keep(rows)
    except CouncilError as error:
        # They are guesses that the next calls make anew: no reason to stop, and tried again soon.
        speeds.unkept(rows)
        _log.warning("learned speeds not kept", code=error.code, detail=error.detail)
    except BaseException:
        speeds.unkept(rows)
        raise
