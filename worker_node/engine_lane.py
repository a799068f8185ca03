"""One engine of a node, with its models and its slots."""

from __future__ import annotations

import time

import msgspec

from common.logs import get_logger
from common.protocol import EngineInfo, ModelInfo
from worker_node.admission import Admission
from worker_node.admission_shell import AdmissionShell, Ticket
from worker_node.catalog import Catalog
from worker_node.engine_slots import EngineSlots
from worker_node.engines.base import Engine, Finished

log = get_logger(__name__)


class EngineLane:
    """One engine with what the node knows and decides about it."""

    def __init__(self, engine: Engine, *, max_resident: int, max_queue: int) -> None:
        self.engine = engine
        self.catalog = Catalog(engine)
        self.admission = AdmissionShell(Admission(max_resident=max_resident, max_queue=max_queue))
        self._slots = EngineSlots()
        self._known: EngineInfo | None = None

    async def info(self) -> EngineInfo:
        """The engine's health, at most a second old."""
        before, self._known = self._known, await self.catalog.info()
        if before is not None and self._known.status == "connected":
            if before.status != "connected":
                self._slots.restarted(time.monotonic())
            elif before.version != self._known.version:
                self._slots.forget()
        return self._known

    async def models(self) -> list[ModelInfo]:
        """The models, with the slots that they really have. Raises what the engine's `models` raises."""
        return [self._with_slots(model) for model in await self.catalog.models()]

    def _with_slots(self, model: ModelInfo) -> ModelInfo:
        slots = self.slots(model)
        return model if slots == model.slots else msgspec.structs.replace(model, slots=slots)

    def slots(self, model: ModelInfo) -> int:
        """Calls of the model that the engine takes at once, as far as is known by now."""
        return self._slots.slots(model.name, model.slots, time.monotonic())

    def begins(self, ticket: Ticket) -> None:
        """The call of an admitted ticket goes to the engine; `ends` has to follow."""
        self._slots.began(ticket.call_id, ticket.model, time.monotonic())

    def ends(self, ticket: Ticket, model: ModelInfo, finished: Finished | None) -> None:
        """It ended, with the engine's account if it came to its end."""
        if self._slots.ended(ticket.call_id, time.monotonic(), finished):
            slots = self.slots(model)
            log.warning("slots of the engine", model=model.name, found=slots, settings=model.slots)
            self.admission.resize(model.name, slots)

    async def load(self, model: str) -> float:
        """Make the model resident; milliseconds. The load goes on when the caller is cancelled."""
        try:
            spent_ms = await self.engine.load(model)
        finally:
            # Whatever came of it, what is resident may have changed.
            self.catalog.forget_residency()
        self.catalog.note_use(model)
        return spent_ms
