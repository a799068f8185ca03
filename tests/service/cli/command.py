"""Run `council` as people do: a process of its own, with an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import zygote

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@dataclass
class Council:
    """The command with a home of its own, so that no master or file of this machine is found."""

    home: Path

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("COUNCIL_", "OLLAMA_", "BG_"))}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(self.home / "data"),
            "COUNCIL_DATA_DIR": str(self.home / "data"),
            "PYTHONIOENCODING": "utf-8",
            **extra,
        }

    def run(self, *arguments: str, stdin: str | bytes = "", timeout: float = 60, **extra: str) -> Outcome:
        """Run to the end; standard input is `stdin`."""
        done = zygote.run(
            "master.cli",
            arguments,
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            env=self.environment(**extra),
            cwd=self.home,
            timeout_s=timeout,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextmanager
    def start(self, *arguments: str, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start it and let the test talk to it; what is left at the end is killed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "master.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(**extra),
            cwd=self.home,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
