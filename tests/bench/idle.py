"""What the programs cost before anybody asks anything: memory at rest, and time to start."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests import processes
from tests.bench.figures import Figure, Scale, of_rounds
from tests.bench.rig import resident_mb
from tests.standin.process import StandInProcess

IDLE_S = 5.0
LOOKING = {"COUNCIL_DISCOVERY": "true"}  # as a node does by itself


async def run(scale: Scale) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        engine = stack.enter_context(StandInProcess({"models": ["m"]}))
        starts: dict[str, list[float]] = {"master": [], "node": [], "help": [], "python": []}
        memory: dict[str, list[float]] = {"master": [], "node": []}
        for number in range(scale.starts):
            rests = number == 0
            master = processes.master(folder / f"master{number}")
            node = processes.node(folder / f"node{number}", name="pc2", ollama=engine.base_url, env=LOOKING)
            for name, program in (("master", master), ("node", node)):
                began = time.perf_counter()
                async with program as running:
                    starts[name].append(time.perf_counter() - began)
                    if rests:
                        await asyncio.sleep(IDLE_S)
                        memory[name].append(resident_mb(running.pid))
            starts["help"].append(await _seconds("-m", "master.cli", "--help"))
            starts["python"].append(await _seconds("-c", "pass"))
    bare = ("bare Python", starts["python"])
    return [
        of_rounds("memory, master idle", memory["master"], "MB", target=160.0),
        of_rounds("memory, node idle, engine elsewhere", memory["node"], "MB", target=90.0),
        of_rounds("start, master to its first answer", starts["master"], "s", peers=bare),
        of_rounds("start, node to its first answer", starts["node"], "s", peers=bare),
        of_rounds("council --help", starts["help"], "s", peers=bare, target=0.3),
    ]


async def _seconds(*arguments: str) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=processes.ROOT,
        env=processes.clean_environment(),
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await process.wait() != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - began
