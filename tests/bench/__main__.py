"""`python -m tests.bench [--long] [--only NAME] [--json FILE]`: measure, print one table.

Exit 0 whatever the figures are; 1 when a bench could not be run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil

from tests import zygote
from tests.bench import (
    calls,
    chunks,
    clusters,
    council,
    idle,
    isolation,
    jobs,
    mixed,
    peers,
    prediction,
    scheduling,
    sockets,
)
from tests.bench.figures import Figure, Scale, tables

BENCHES: dict[str, Callable[[Scale], Coroutine[Any, Any, list[Figure]]]] = {
    "council": council.run,
    "calls": calls.run,
    "chunks": chunks.run,
    "idle": idle.run,
    "mixed": mixed.run,
    "isolation": isolation.run,
    "jobs": jobs.run,
    "sockets": sockets.run,
    "scheduling": scheduling.run,
    "clusters": clusters.run,
    "prediction": prediction.run,
}

# Where memory, starts and CPU time are measured programs are not forked from one that has imported them.
AS_PEOPLE_START_THEM = frozenset({"calls", "chunks", "idle"})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--long", action="store_true", help="more rounds, for steadier figures")
    parser.add_argument("--only", choices=BENCHES, action="append", help="this bench alone; may be repeated")
    parser.add_argument("--markdown", type=Path, help="write the table there as docs/benchmarks.md shows it")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    flags = parser.parse_args()
    _have_peers()
    forks = zygote.AVAILABLE
    began = time.monotonic()
    found: dict[str, list[Figure]] = {}
    failed: list[str] = []
    for name in flags.only or BENCHES:
        zygote.AVAILABLE = forks and name not in AS_PEOPLE_START_THEM
        _say(f"{name} … ({time.monotonic() - began:.0f} s so far)")
        try:
            found[name] = asyncio.run(BENCHES[name](Scale.of(long=flags.long)))
        except Exception:
            # One bench that cannot run must not cost the figures of the others.
            traceback.print_exc()
            failed.append(name)
    machine = _machine()
    shown = f"{_in_words(machine)}\n\n{tables(one for made in found.values() for one in made)}\n"
    sys.stdout.write(f"\n{shown}\n")
    _say(f"{time.monotonic() - began:.0f} s" + (f"; could not run: {', '.join(failed)}" if failed else ""))
    if flags.markdown is not None:
        flags.markdown.write_text(shown, encoding="utf-8")
    if flags.json is not None:
        rows = {name: [one.as_json() for one in made] for name, made in found.items()}
        flags.json.write_text(
            json.dumps({"machine": machine, "benches": rows}, indent=1) + "\n", encoding="utf-8"
        )
    return 1 if failed else 0


def _machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "peers": peers.versions(),
        "load_1_min": round(psutil.getloadavg()[0], 1),
    }


def _in_words(machine: dict[str, Any]) -> str:
    beside = (
        ", ".join(f"{name} {version}" for name, version in machine["peers"].items()) or "no peer installed"
    )
    return (
        f"Measured on {machine['date']}: {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}; {beside}; everything on loopback, "
        f"load average at the end {machine['load_1_min']}."
    )


def _have_peers() -> None:
    """Install a peer where that is possible; without it its rows are left out."""
    if "HAProxy" in peers.missing():
        _say("installing haproxy, a peer in the table …")
        peers.install_haproxy()
    for name, command in peers.missing().items():
        _say(f"{name} is not installed: its rows are left out ({command})")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
