"""A process that only runs jobs: beside the master on the same database, and nicer to the machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack

import psutil

from common import __version__, logs
from common.logs import get_logger
from common.master_settings import MasterSettings
from common.program import loop_factory, when_the_parent_is_gone
from master.background.catalogue import Catalogue
from master.background.executor import Executor
from master.background.limits import JobLimits
from master.background.remote import MasterLink
from master.state.database import parse_address
from master.state.durable import Place
from master.state.executors import Executors, Liveness
from master.state.store import Store

_NICENESS = 10
_log = get_logger(__name__)


def run_worker(
    settings: MasterSettings,
    *,
    url: str,
    key: str | None,
    verify: ssl.SSLContext | bool = True,
    exit_with_parent: bool = False,
) -> int:
    """Run jobs until SIGTERM or SIGINT. Raises `CouncilError` when it cannot start."""
    logs.configure(level=settings.log_level, fmt=settings.log_format, program="job worker")
    be_nice()
    with asyncio.Runner(loop_factory=loop_factory(by_select=settings.on_server)) as runner:
        return runner.run(_work(settings, url, key, verify, exit_with_parent))


async def _work(
    settings: MasterSettings, url: str, key: str | None, verify: ssl.SSLContext | bool, exit_with_parent: bool
) -> int:
    async with AsyncExitStack() as stack:
        store = await Store.join(settings.sqlalchemy_url)
        stack.push_async_callback(store.close)
        link = MasterLink(url, key=key, verify=verify)
        stack.push_async_callback(link.close)
        await link.ask()
        executor = Executor(
            store=store,
            place=Place.beside(settings.sqlalchemy_url),
            catalogue=Catalogue.of(priorities=settings.bg_priorities, extensions=settings.job_types),
            executors=await _liveness(settings, stack),
            model=link,
            gate=link,
            limits=JobLimits.of(settings),
            kind="worker",
            schedules=False,
        )
        link.executor_id = executor.id
        await stack.enter_async_context(link.following())
        await stack.enter_async_context(executor.running())
        stop = asyncio.Event()
        _on_signals(stop.set)
        if exit_with_parent:
            when_the_parent_is_gone(stop.set)
        ready = {"executor": executor.id, "pid": os.getpid(), "master": url}
        print(json.dumps(ready), flush=True)  # noqa: T201  # for whoever started it
        await stop.wait()
        _log.info("job worker stops", running=len(executor.running_ids))
    return 0


async def _liveness(settings: MasterSettings, stack: AsyncExitStack) -> Liveness:
    """Where others see that this process lives: a lock on the database server, or on this machine."""
    if not settings.on_server:
        return Executors(settings.data_dir / "executors")
    from master.state.presence import Presence  # late: as in the master

    presence = Presence(
        parse_address(settings.sqlalchemy_url), name=settings.name, version=__version__, data_dir=None
    )
    await stack.enter_async_context(presence.running())
    return presence


def be_nice() -> None:
    """Let everything else on this machine go first."""
    me = psutil.Process()
    try:
        if sys.platform == "win32":
            me.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            me.nice(max(_NICENESS, me.nice()))
    except (psutil.AccessDenied, OSError) as error:
        _log.warning("job worker runs at its usual priority", reason=str(error))


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(stop))
        else:
            loop.add_signal_handler(number, stop)
