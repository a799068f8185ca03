"""Faults that need no generation: at the queue's door, on embeddings and on the management routes."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tests.standin.channel import drop
from tests.standin.engine import for_ever
from tests.standin.faults import Fault, FaultKind
from tests.standin.scheduler import BUSY_TEXT
from tests.standin.wire import Refusal

OUT_OF_MEMORY_TEXT = "model requires more system memory (8.0 GiB) than is available (3.1 GiB)"


async def before_scheduling(faults: tuple[Fault, ...]) -> None:
    """Delay or refuse a generation or an embedding."""
    for fault in faults:
        if fault.kind is FaultKind.DELAY:
            await _wait(fault)
        elif fault.kind is FaultKind.BUSY:
            raise Refusal(503, fault.text or BUSY_TEXT)
        elif fault.kind is FaultKind.OUT_OF_MEMORY:
            raise Refusal(500, fault.text or OUT_OF_MEMORY_TEXT)


async def on_simple_route(request: web.BaseRequest, faults: tuple[Fault, ...]) -> None:
    """Delay, refuse or cut a request whose answer is not a generation."""
    for fault in faults:
        match fault.kind:
            case FaultKind.STATUS:
                raise Refusal(fault.status, fault.text or "internal error")
            case FaultKind.BUSY:
                raise Refusal(503, fault.text or BUSY_TEXT)
            case FaultKind.CUT:
                drop(request.transport, reset=fault.reset)
                await for_ever()
            case FaultKind.STALL | FaultKind.DELAY:
                await _wait(fault)
            case _:
                pass


async def _wait(fault: Fault) -> None:
    if fault.stall_ms is None:
        await for_ever()
    else:
        await asyncio.sleep(fault.stall_ms / 1000)
