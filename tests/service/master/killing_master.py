"""Masters that die at a chosen commit: a process that has imported the master once and forks its lives.

It reads one JSON line per life from standard input: `{"argv": […], "env": {…}, "kill": [number, "before"]}`.
The life is `master.main.main(argv)` whose `SessionRepository` counts its commits; right before or right after
that one (counted from 1) it sends itself SIGKILL. A life writes the master's own ready line, and this
process its end: `{"ended": exit code, "commits": [names]}`.

A fork costs a tenth of what a fresh interpreter costs, so that every boundary can be tried. POSIX only.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from master import main
from master.state.sessions import SessionRepository

COMMITS = (
    "create",
    "begin_attempt",
    "finish_attempt",
    "set_state",
    "reserve_seq",
    "reopen",
    "cancelling",
    "interrupt_running",
    "delete",
)


class Executioner:
    """Counts commits over a pipe, which outlives its process, and ends the process at the chosen one."""

    def __init__(self, kill: tuple[int, str] | None, out: int) -> None:
        self._kill = kill
        self._out = out
        self._count = 0

    def watch(self) -> None:
        for name in COMMITS:
            write = getattr(SessionRepository, name, None)
            if write is not None:
                assert inspect.iscoroutinefunction(write)
                setattr(SessionRepository, name, self._counted(name, write))

    def _counted(self, name: str, write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(write)
        async def counted(*arguments: Any, **named: Any) -> Any:
            self._count += 1
            number = self._count
            os.write(self._out, f"{name}\n".encode())
            self._die_if((number, "before"))
            result = await write(*arguments, **named)
            self._die_if((number, "after"))
            return result

        return counted

    def _die_if(self, now: tuple[int, str]) -> None:
        if self._kill == now:
            os.kill(os.getpid(), signal.SIGKILL)


def live(order: dict[str, Any], out: int) -> int:
    """One life, in a forked child."""
    os.environ.update(order["env"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    kill = order.get("kill")
    Executioner((kill[0], kill[1]) if kill else None, out).watch()
    return main.main(order["argv"])


def fork(order: dict[str, Any]) -> dict[str, Any]:
    """Let one life happen and tell how it ended."""
    source, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        code = 70
        try:
            code = live(order, out)
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(out)
    with open(source, encoding="ascii") as commits:
        names = commits.read().split()
    _, status = os.waitpid(pid, 0)
    return {"ended": os.waitstatus_to_exitcode(status), "commits": names}


if __name__ == "__main__":
    # Not through `sys.stdin`: a life's `--exit-with-parent` watches the same descriptor.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        for line in iter(orders.readline, b""):
            print(json.dumps(fork(json.loads(line))), flush=True)  # noqa: T201  # the test reads this line
