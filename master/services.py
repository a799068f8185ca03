"""What the routes call: one object that the entry point builds and every route is handed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from common.master_settings import MasterSettings
from master.background.calls import BackgroundCalls
from master.background.gatekeeper import Gatekeeper
from master.background.jobs import JobService
from master.cluster.dispatch import Dispatcher
from master.cluster.registry import Registry
from master.cluster.usage_keeping import UsageKeeper
from master.council.service import CouncilService
from master.keyring import KeyRing
from master.knowledge.archiving import ArchiveService
from master.masters import Masters
from master.state.store import Store

if TYPE_CHECKING:
    from master.authority import ClusterAuthority


@dataclass(frozen=True, slots=True)
class Services:
    settings: MasterSettings
    store: Store
    registry: Registry
    dispatcher: Dispatcher
    background: BackgroundCalls
    council: CouncilService
    archives: ArchiveService
    jobs: JobService
    masters: Masters
    keyring: KeyRing
    gatekeeper: Gatekeeper
    usage: UsageKeeper
    authority: ClusterAuthority | None
    started_at: float = field(default_factory=time.monotonic)

    async def stop(self) -> None:
        """End what runs so that it can be resumed, before connections are closed. Safe twice."""
        await self.jobs.executor.stop()
        await self.council.stop()


async def _services(request: Request) -> Services:
    # A coroutine, since FastAPI sends plain functions through its thread pool, for every request.
    found: Services = request.app.state.services
    return found


Master = Annotated[Services, Depends(_services)]
