"""Start the master and the node as processes of their own, and stop them again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections import deque
from pathlib import Path
from typing import Any

from master.cli.failure import CommandFailedError
from master.cli.printable import printable

READY_WITHIN_S = 90.0  # a cold start on a slow disk writes practice models and a database
STOP_WITHIN_S = 10.0
READY_POLL_S = 0.1
KEPT_LINES = 40


def program_command(program: str, *arguments: str) -> list[str]:
    """The command line of `master` or `worker_node` under this interpreter."""
    return [sys.executable, "-m", program, *arguments]


def program_environment(**extra: str | None) -> dict[str, str]:
    """The environment of a child. A checkout that is not installed is put on its path."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, **{name: value for name, value in extra.items() if value is not None}}
    # A folder called `master` or `worker_node` in the user's working directory must not be run instead, not
    # by the programs that the child starts either.
    environment["PYTHONSAFEPATH"] = "1"
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
    return environment


class Child:
    """One program of ours as a child process. Use it as an async context; leaving it stops the child.

    `ready` is the line the program prints when it serves: `url`, `name` and `pid`. `echo`: pass its log on
    to our standard error; otherwise the last lines are kept to explain a failure.
    """

    def __init__(
        self,
        program: str,
        arguments: list[str],
        *,
        echo: bool,
        stop_within_s: float = STOP_WITHIN_S,
        **environment: str | None,
    ) -> None:
        self._program = program
        self._arguments = arguments
        self._environment = environment
        self._echo = echo
        self._stop_within_s = stop_within_s
        self._log: deque[str] = deque(maxlen=KEPT_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self.ready: dict[str, Any] = {}

    async def __aenter__(self) -> Child:
        # A group of its own: Ctrl-C on the terminal reaches us alone, and we decide what is stopped when.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._process = await asyncio.create_subprocess_exec(
            *program_command(self._program, *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=program_environment(**self._environment),
            **group,
        )
        try:
            self._readers.append(asyncio.create_task(self._read_log()))
            self.ready = await self._read_ready()
            self._readers.append(asyncio.create_task(self._discard_output()))
        except BaseException:
            await self.stop(within_s=2.0)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(within_s=self._stop_within_s)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def wait(self) -> int:
        """The exit code, when the program ends by itself."""
        assert self._process is not None
        return await self._process.wait()

    async def until_ready(
        self, *, within_s: float = READY_WITHIN_S, data_dir: Path | None = None
    ) -> dict[str, Any]:
        """Wait until the master has a node with models, and return its health. `data_dir`: its folder.

        Raises `CommandFailedError` when it ends before, or the time is over.
        """
        from master.cli.addresses import reachable
        from master.cli.locate import probe

        url = reachable(str(self.ready["url"]))
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            health = await probe(url, data_dir) or {}
            checks = health.get("checks") or {}
            if health.get("status") in ("healthy", "degraded") and checks.get("models") != "none":
                return health
            if self._process is None or self._process.returncode is not None:
                raise CommandFailedError(f"the {self._program} ended while it started{self._story()}")
            if asyncio.get_running_loop().time() > deadline:
                told = ", ".join(f"{name}: {state}" for name, state in checks.items())
                raise CommandFailedError(
                    f"no node with models was ready within {within_s:.0f} s ({told}){self._story()}",
                    hint="`council doctor` looks for the reason",
                )
            await asyncio.sleep(READY_POLL_S)

    def kill(self) -> None:
        """End the program without asking; `stop` still has to be awaited."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self, *, within_s: float) -> None:
        """Ask the program to end; kill it when it takes longer than `within_s`."""
        process = self._process
        if process is None:
            return
        try:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    _ask_to_end(process)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), within_s)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            if process.stdin is not None:
                process.stdin.close()
            for reader in self._readers:
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
            self._readers.clear()

    async def _read_ready(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), READY_WITHIN_S)
        except TimeoutError:
            raise CommandFailedError(
                f"the {self._program} did not start within {READY_WITHIN_S:.0f} s{self._story()}",
                hint="`council doctor` looks for the reason",
            ) from None
        try:
            ready = json.loads(line)
        except ValueError:
            ready = None
        if isinstance(ready, dict) and "url" in ready:
            return ready
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 5)
        await asyncio.wait(self._readers, timeout=2)
        raise CommandFailedError(
            f"the {self._program} did not start (exit code {self._process.returncode}){self._story()}",
            hint="`council doctor` looks for the reason",
        )

    async def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while True:
            try:
                raw = await self._process.stderr.readline()
            except ValueError:
                continue  # a line longer than the reader's limit was dropped
            if not raw:
                return
            line = raw.decode("utf-8", "replace").rstrip()
            self._log.append(line)
            if self._echo:
                sys.stderr.write((readable(line) if sys.stderr.isatty() else line) + "\n")
                sys.stderr.flush()

    async def _discard_output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while await self._process.stdout.read(65536):
            pass

    def _story(self) -> str:
        lines = [readable(line) for line in self._log if line.strip()]
        return ":\n  " + "\n  ".join(lines[-8:]) if lines and not self._echo else ""


def readable(line: str) -> str:
    """A JSON line of our programs' logs as people read it; any other line as it is, without control codes."""
    try:
        fields = json.loads(line)
    except ValueError:
        return printable(line)
    if not isinstance(fields, dict) or "event" not in fields:
        return printable(line)
    level, event = fields.pop("level", "info"), fields.pop("event")
    told = [f"{name}={value}" for name, value in fields.items() if name not in _LOG_FRAME]
    return printable(f"{level}: {event}" + (f" ({', '.join(told)})" if told else ""))


_LOG_FRAME = frozenset({"timestamp", "program", "logger"})


def _ask_to_end(process: asyncio.subprocess.Process) -> None:
    if sys.platform == "win32":
        if process.stdin is not None:
            process.stdin.close()  # `--exit-with-parent`: the program watches it and stops in order
    else:
        process.send_signal(signal.SIGTERM)
