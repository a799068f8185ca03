"""The stand-in in a process of its own, and how to read and script it over its control routes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


class StandInProcess:
    """`with StandInProcess({"models": ["m"], "slots": 2}) as server: server.base_url`; blocking calls."""

    def __init__(self, config: dict[str, Any] | None = None, *, port: int = 0) -> None:
        self._config = config or {}
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self.base_url = ""

    def __enter__(self) -> StandInProcess:
        command = [sys.executable, "-m", "tests.standin", "--exit-with-parent", "--port", str(self._port)]
        self._process = subprocess.Popen(
            [*command, "--config", json.dumps(self._config)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__(None, None, None)
            raise RuntimeError("the stand-in did not start; its error is on stderr")
        self.base_url = json.loads(line)["base_url"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.returncode

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def control(self, name: str, body: Any = None) -> Any:
        """GET a control route, or POST `body` to it if it is not None."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base_url}/__control__/{name}", data=data)
        with self._open(request, timeout=10) as response:
            return json.load(response)

    def log(self) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = self.control("log")
        return made

    def counters(self) -> dict[str, Any]:
        made: dict[str, Any] = self.control("counters")
        return made

    def add_faults(self, *faults: dict[str, Any]) -> None:
        self.control("faults", list(faults))

    def reset(self) -> None:
        self.control("reset", {})
