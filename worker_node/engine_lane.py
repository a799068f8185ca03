"""One engine of a node, with its models and its slots."""

from __future__ import annotations

from worker_node.admission import Admission
from worker_node.admission_shell import AdmissionShell
from worker_node.catalog import Catalog
from worker_node.engines.base import Engine


class EngineLane:
    """One engine with what the node knows and decides about it."""

    def __init__(self, engine: Engine, *, max_resident: int, max_queue: int) -> None:
        self.engine = engine
        self.catalog = Catalog(engine)
        self.admission = AdmissionShell(Admission(max_resident=max_resident, max_queue=max_queue))

    async def load(self, model: str) -> float:
        """Make the model resident; milliseconds. The load goes on when the caller is cancelled."""
        try:
            spent_ms = await self.engine.load(model)
        finally:
            # Whatever came of it, what is resident may have changed.
            self.catalog.forget_residency()
        self.catalog.note_use(model)
        return spent_ms
