"""Lives of one job service on one folder, each ended by SIGKILL at a chosen write, or when all jobs are over.

Reads one JSON line per life, `{"folder", "url", "log", "kill": [number, "before"] | null}`, and answers
`{"ended": exit code, "writes": [names]}`. Writes are those of our rows and those of the job engine, counted
from 1 in the order in which they begin. Forked from a process that has imported everything; POSIX only.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbos import _dbos
from dbos._sys_db import SystemDatabase
from dbos._sys_db_postgres import PostgresSystemDatabase
from dbos._sys_db_sqlite import SQLiteSystemDatabase

from common import logs
from master.background import executor
from master.background.limits import JobLimits
from master.state.job_calls import JobCallRepository
from master.state.job_queue import JobQueue
from master.state.jobs import JobRepository
from tests.service.background.scripted import leave_mark
from tests.service.background.workshop import Parrot, Workshop, workshop

OURS: dict[type, tuple[str, ...]] = {
    JobRepository: ("submit_batch",),
    JobQueue: ("claim", "finish", "bury", "put_back", "progress", "take_from"),
    JobCallRepository: ("begin", "end"),
}
ENGINES = ("init_workflow", "record_operation_result", "update_workflow_outcome", "resume_workflows")


class Executioner:
    """Counts writes over a pipe, which outlives its process, and ends the process at the chosen one."""

    def __init__(self, kill: tuple[int, str] | None, out: int) -> None:
        self._kill = kill
        self._out = out
        self._count = 0
        self._under_way = 0
        self._lock = threading.Lock()

    def watch(self) -> None:
        for place, names in OURS.items():
            for name in names:
                write = getattr(place, name)
                assert inspect.iscoroutinefunction(write)
                setattr(place, name, self._counted(name, write))
        for name in ENGINES:
            for owner in (SystemDatabase, SQLiteSystemDatabase, PostgresSystemDatabase):
                if name in vars(owner):
                    setattr(owner, name, self._counted_beside(f"engine.{name}", vars(owner)[name]))

    def _counted(self, name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        async def counted(*arguments: Any, **named: Any) -> Any:
            with self._writing(name):
                return await write(*arguments, **named)

        return counted

    def _counted_beside(self, name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        def counted(*arguments: Any, **named: Any) -> Any:
            with self._writing(name):
                return write(*arguments, **named)

        return counted

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        number = self._begin(name)
        self._die_if((number, "before"))
        try:
            yield
        finally:
            self._die_if((number, "after"))
            with self._lock:
                self._under_way -= 1

    def _begin(self, name: str) -> int:
        with self._lock:
            self._count += 1
            self._under_way += 1
            os.write(self._out, f"{name}\n".encode())
            return self._count

    def end_between_writes(self) -> None:
        """End the process well, unless a write is under way."""
        with self._lock:
            if not self._under_way:
                os._exit(0)

    def _die_if(self, now: tuple[int, str]) -> None:
        if self._kill == now:
            os.kill(os.getpid(), signal.SIGKILL)


class MarkingParrot(Parrot):
    """Leaves a file per call that it answered, which outlives its process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    async def run(self, call: Any, watcher: Any) -> Any:
        await asyncio.to_thread(leave_mark, str(self._folder), f"call-{call.messages[0].content[-38:-2]}")
        return await super().run(call, watcher)


async def live(folder: Path, url: str | None, executioner: Executioner) -> None:
    """Submit two jobs where there are none, and see them to their ends."""
    limits = JobLimits(first_pause_s=0.05, concurrency=2)
    async with workshop(folder, limits=limits, parrot=MarkingParrot(folder), url=url) as shop:
        if not (await shop.store.jobs.counts()):
            await _submit(shop)
        await shop.all_ended()
        await shop.settled()
        sys.stdout.flush()
        while True:  # a stop in order is another test's business, and takes most of a life
            if not _engine_has_work():
                executioner.end_between_writes()
            await asyncio.sleep(0.005)


def _engine_has_work() -> bool:
    """Whether it still has to write what became of a job: it does so after the job has left us."""
    engine = _dbos._dbos_global_instance
    return engine is not None and bool(engine._active_workflows_set.activeList())


async def _submit(shop: Workshop) -> None:
    new = shop.jobs.catalogue.new
    given = {"folder": str(shop.folder), "times": 1}
    jobs = [new("asking", {"calls": 2}), new("failing", given)]
    await shop.jobs.submit_batch("asking", jobs)


def fork(order: dict[str, Any]) -> dict[str, Any]:
    """Let one life happen and tell how it ended."""
    source, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        code = 70
        try:
            os.dup2(os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
            logs.configure(level="info", fmt="json", program="life")
            kill = order.get("kill")
            executioner = Executioner((kill[0], kill[1]) if kill else None, out)
            executioner.watch()
            # Each look at the queue is a write: a life that takes longer is not to have more of them.
            executor._HOUSEKEEPING_S = 60.0
            asyncio.run(live(Path(order["folder"]), order.get("url"), executioner))
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(out)
    with open(source, encoding="ascii") as writes:
        names = writes.read().split()
    _, status = os.waitpid(pid, 0)
    return {"ended": os.waitstatus_to_exitcode(status), "writes": names}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(fork(json.loads(line))), flush=True)  # noqa: T201  # the test reads this line
