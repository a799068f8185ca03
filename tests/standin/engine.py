"""What all routes share: the models, the faults, the journal and the scheduler of one server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.standin.faults import Faults
from tests.standin.journal import Journal
from tests.standin.model import StandInModel
from tests.standin.options import parse_options
from tests.standin.scheduler import Scheduler
from tests.standin.wire import Refusal, full_name, lookup_key


@dataclass
class Installed:
    """A model on the server's disk, and how many generations it has begun."""

    model: StandInModel
    modified_at: float
    generations: int = 0


@dataclass
class Engine:
    """State of one server; everything runs in its event loop."""

    journal: Journal
    faults: Faults
    scheduler: Scheduler
    version: str
    context_length: int
    default_keep_alive_s: float
    shared_speed: float
    pull_ms: float
    registry: dict[str, StandInModel]
    """Models that can be pulled, by lookup key."""
    installed: dict[str, Installed] = field(default_factory=dict)
    partial_pulls: dict[str, int] = field(default_factory=dict)
    """Bytes already fetched of a pull that was broken off."""

    def install(self, model: StandInModel) -> None:
        """Put a model on the disk; one of the same name is replaced, its runner and its call count stay."""
        key = lookup_key(model.name)
        before = self.installed.get(key)
        self.installed[key] = Installed(model, time.time(), before.generations if before else 0)
        for runner in self.scheduler.runners:
            if lookup_key(runner.model.name) == key:
                runner.model = model

    def install_all(self, models: Iterable[StandInModel]) -> None:
        for model in models:
            self.install(model)
            if model.resident:
                options = parse_options(None)
                context = options.context(self.context_length, model.context_length)
                self.scheduler.put_resident(model, options.load_key(context, True), context)

    def find(self, name: str) -> Installed | None:
        return self.installed.get(lookup_key(name))

    def require(self, name: str, text: str) -> Installed:
        """The installed model, or a 404 with `text`."""
        found = self.find(name)
        if found is None:
            raise Refusal(404, text)
        return found

    def listed_name(self, model: StandInModel) -> str:
        return full_name(model.name)


def loop_ms() -> float:
    """Now, in milliseconds of the loop's clock."""
    return asyncio.get_running_loop().time() * 1000


async def sleep_until(due_s: float) -> None:
    """Sleep until the loop's clock shows `due_s`; return at once if it already does."""
    delay = due_s - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


async def for_ever() -> None:
    """Wait until cancelled."""
    await asyncio.get_running_loop().create_future()
