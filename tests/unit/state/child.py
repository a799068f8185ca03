"""What a test needs a process of its own for: `python -m tests.unit.state.child MODE FOLDER [ADDRESS]`.

Each line on standard output is one event, flushed at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from common.errors import CouncilError
from master.state.store import Store
from tests.unit.state.builders import done, plan, running

NOBODY = 65534


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


async def open_in(folder: Path) -> Store:
    address = sys.argv[3] if len(sys.argv) > 3 else f"sqlite:///{folder / 'council.db'}"
    return await Store.open(address, data_dir=folder)


async def hold(folder: Path) -> None:
    """Open the store and keep it until standard input ends."""
    store = await open_in(folder)
    say("open", os.getpid())
    await asyncio.to_thread(sys.stdin.read)
    await store.close()


async def commit_for_ever(folder: Path) -> None:
    """Say each attempt once it is committed, with one more always begun; until killed."""
    store = await open_in(folder)
    asked = plan()
    await store.sessions.create(asked)
    say(asked.session_id)
    for number in range(1, 1_000_000):
        await store.sessions.begin_attempt(asked.session_id, running(attempt=number))
        say("begun", number)
        await store.sessions.finish_attempt(asked.session_id, done(attempt=number, text=f"{number} " * 500))
        say("done", number)


async def fill(folder: Path) -> None:
    """Write until no file may grow any more, then once that is over."""
    import resource

    store = await open_in(folder)
    asked = plan()
    await store.sessions.create(asked)
    say(asked.session_id)
    size = (folder / "council.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 64 * 1024, resource.RLIM_INFINITY))
    for number in range(1, 100):
        try:
            await store.sessions.finish_attempt(asked.session_id, done(attempt=number, text="x" * 10_000))
        except CouncilError as error:
            say(error.code, number)
            break
        say("done", number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.sessions.finish_attempt(asked.session_id, done(attempt=1000))
    say("done", 1000)
    await store.close()


async def as_nobody(folder: Path) -> None:
    """Open a store that this user may not write."""
    if os.geteuid() == 0:
        # The interpreter may live where only root reads: have everything imported first.
        with tempfile.TemporaryDirectory() as other:
            await (await open_in(Path(other))).close()
        os.seteuid(NOBODY)
    try:
        store = await open_in(folder)
    except CouncilError as error:
        say(error.code, error.detail)
    else:
        say("open")
        await store.close()


MODES = {"hold": hold, "commit": commit_for_ever, "fill": fill, "nobody": as_nobody}

if __name__ == "__main__":
    asyncio.run(MODES[sys.argv[1]](Path(sys.argv[2])))
