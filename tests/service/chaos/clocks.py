"""Programs whose clock on the wall is wrong, as libfaketime makes it; the monotonic clock goes on as it does.

Python's, SQLite's and OpenSSL's time are all wrong then: certificates are judged by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.processes import READY_S, ROOT, Program, clean_environment

_INSTALL = "apt-get install faketime"


def library() -> str:
    """The library to preload. Skips where there is none; under CI that is a failure."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")) if sys.platform == "linux" else []
    if found:
        return str(found[0])
    if sys.platform == "linux" and os.environ.get("CI") == "true":
        pytest.fail(f"no libfaketime: {_INSTALL}")
    pytest.skip(f"no libfaketime: {_INSTALL}")


@asynccontextmanager
async def node_with_clock(
    shift_s: int, data_dir: Path, *arguments: str, env: Mapping[str, str]
) -> AsyncIterator[Program]:
    """A node whose clock is so many seconds off. Raises with its log when it ends before it serves."""
    wrong = {
        "LD_PRELOAD": library(),
        "FAKETIME": f"{shift_s:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
    await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}-worker_node.log"
    flags = ("--port", "0", "--data-dir", str(data_dir), "--exit-with-parent", *arguments)
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker_node", *flags),
            cwd=ROOT,
            env=clean_environment({"COUNCIL_DISCOVERY": "false", **wrong, **env}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = await process.stdout.readline()
        if not line:
            code = await process.wait()
            raise RuntimeError(f"the node ended with {code}: {log.read_text(errors='replace')[-3000:]}")
        program = Program(process, json.loads(line)["url"], log)
        yield program
        await program.stop()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
