"""Programs of ours forked from a process that has imported them once, instead of started from nothing.

A fresh interpreter spends a second and more of CPU on imports before a master answers, and the service tests
start hundreds; a fork costs some milliseconds. What is forked is a process like any other: it has a pid, an
environment, standard streams, signals and an exit code of its own, and it runs the same `main` as
`python -m`. Tests about the start of an interpreter itself use `sys.executable`. POSIX only: see `AVAILABLE`.

This module is both ends: `fork` is what the tests call; `python -m tests.zygote FD` is the process, which
takes orders from that socket one after the other, each with the descriptors that the program gets.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

AVAILABLE = sys.platform != "win32"
_ROOT = Path(__file__).resolve().parents[1]
_FORK_S = 60.0  # the first order waits for the imports
# No module that starts a thread when it is imported: a fork would have none of them.
_IMPORTS = (
    "aiosqlite",
    "alembic.command",
    "alembic.ddl.impl",
    "common.tls",
    "dbos",
    "master.cli.ask",
    "master.cli.configuration",
    "master.background.worker",
    "master.cli.doctor",
    "master.cli.keys",
    "master.cli.live",
    "master.cli.main",
    "master.cli.models",
    "master.cli.sessions",
    "master.cli.tokens",
    "master.cli.up",
    "master.cli.workers",
    "master.main",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "uvloop",
    "worker_node.app",
    "worker_node.engine_choice",
    "worker_node.engines.ollama",
    "worker_node.server",
    "worker_node.service",
    "worker_node.standing",
)


# -- the tests' end ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forked:
    """A running program. `status` can be read: it ends with the program, after its exit code as one line."""

    pid: int
    status: int


def fork(
    module: str,
    arguments: Sequence[str],
    *,
    streams: tuple[int, int, int],
    env: Mapping[str, str],
    cwd: Path = _ROOT,
) -> Forked:
    """Do what `python -m module arguments` does, with these descriptors as its standard streams.

    The caller keeps the descriptors and closes `status`.
    """
    return _zygote().fork(
        {"module": module, "argv": list(arguments), "env": dict(env), "cwd": str(cwd)}, streams
    )


def run(
    module: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path = _ROOT,
    stdin: bytes = b"",
    timeout_s: float = 60.0,
) -> subprocess.CompletedProcess[bytes]:
    """`subprocess.run` of `python -m module arguments`, with all that it wrote. Raises `TimeoutExpired`."""
    command = [sys.executable, "-m", module, *arguments]
    if not AVAILABLE:
        return subprocess.run(
            command, input=stdin, capture_output=True, env=env, cwd=cwd, timeout=timeout_s, check=False
        )
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        forked = fork(
            module, arguments, streams=(given.fileno(), out.fileno(), err.fileno()), env=env, cwd=cwd
        )
        with open(forked.status, "rb", buffering=0) as status:
            if not select.select([status], [], [], timeout_s)[0]:
                os.kill(forked.pid, signal.SIGKILL)
                status.read()
                raise subprocess.TimeoutExpired(command, timeout_s)
            code = int(status.read())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


class Running:
    """A program with its standard streams, and what the tests use of `subprocess.Popen`."""

    def __init__(
        self, module: str, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path = _ROOT
    ) -> None:
        self.args = [sys.executable, "-m", module, *arguments]
        self.returncode: int | None = None
        (its_stdin, stdin), (stdout, its_stdout), (stderr, its_stderr) = os.pipe(), os.pipe(), os.pipe()
        try:
            forked = fork(module, arguments, streams=(its_stdin, its_stdout, its_stderr), env=env, cwd=cwd)
        finally:
            for one in (its_stdin, its_stdout, its_stderr):
                os.close(one)
        self.pid = forked.pid
        self.stdin: IO[bytes] = os.fdopen(stdin, "wb")
        self.stdout: IO[bytes] = os.fdopen(stdout, "rb")
        self.stderr: IO[bytes] = os.fdopen(stderr, "rb")
        self._status = os.fdopen(forked.status, "rb", buffering=0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(self._status.read() or -signal.SIGKILL)
            self._status.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Zygote:
    def __init__(self) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(its.fileno())],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
            )
        ours.settimeout(_FORK_S)
        self._socket = ours
        self._turn = threading.Lock()
        atexit.register(self.end)

    def fork(self, order: dict[str, Any], streams: tuple[int, int, int]) -> Forked:
        source, status = os.pipe()
        try:
            with self._turn:
                socket.send_fds(self._socket, [json.dumps(order).encode() + b"\n"], [*streams, status])
                answer = self._socket.recv(64)
        finally:
            os.close(status)
        if not answer:
            os.close(source)
            raise RuntimeError(f"the zygote has ended with {self._process.wait()}")
        return Forked(int(answer), source)

    def end(self) -> None:
        self._socket.close()
        self._process.wait()


_made: dict[int, _Zygote] = {}


def _zygote() -> _Zygote:
    """The one of this process, started when it is first needed."""
    return _made.setdefault(os.getpid(), _made.get(os.getpid()) or _Zygote())


# -- the process ------------------------------------------------------------------------------------------


class _Nursery:
    """Forks programs and tells how they ended."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._running: dict[int, int] = {}  # pid: where its exit code goes

    def serve(self) -> str | None:
        """Take orders until the tests have gone. A forked child returns at once, with the module to run."""
        waking, woken = socket.socketpair()
        for one in (waking, woken):
            one.setblocking(False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which close the socket
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno())
        with selectors.DefaultSelector() as selector, waking, woken:
            selector.register(self._orders, selectors.EVENT_READ)
            selector.register(waking, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is waking:
                        waking.recv(4096)
                        self._reap()
                        continue
                    order, descriptors = self._next_order()
                    if order is None:
                        return None
                    *streams, status = descriptors
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        signal.signal(signal.SIGINT, signal.default_int_handler)
                        return self._become(order, streams, status)
                    self._running[pid] = status
                    for descriptor in streams:
                        os.close(descriptor)
                    self._orders.sendall(b"%d\n" % pid)

    def _next_order(self) -> tuple[dict[str, Any] | None, list[int]]:
        data, descriptors, _, _ = socket.recv_fds(self._orders, 65536, 4)
        while data and not data.endswith(b"\n"):
            data += self._orders.recv(65536)
        return (json.loads(data) if data else None), descriptors

    def _reap(self) -> None:
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                told = self._running.pop(pid)
                try:
                    os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
                except BrokenPipeError:  # nobody wants to know
                    pass
                os.close(told)

    def _become(self, order: dict[str, Any], streams: Sequence[int], status: int) -> str:
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        for descriptor in (*streams, status, *self._running.values()):
            os.close(descriptor)
        self._orders.close()
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        sys.argv[1:] = order["argv"]
        _reopen_streams(order["env"].get("PYTHONIOENCODING", "").partition(":")[0] or "utf-8")
        return str(order["module"])


def _reopen_streams(encoding: str) -> None:
    """As an interpreter opens them: what we began with may have been files, where the child has pipes."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = open(  # as long as the process lives
            number,
            mode,
            buffering=1 if name == "stderr" or os.isatty(number) else -1,
            encoding=encoding,
            errors="backslashreplace" if name == "stderr" else "strict",
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _main() -> None:
    for name in _IMPORTS:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        module = _Nursery(orders).serve()
    if module is not None:
        _end(_run(module))


def _run(module: str) -> int:
    """Its exit code. What is no number is left to the interpreter, as is any other exception."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        return (end.code or 0) & 0xFF
    return 0


def _end(code: int) -> None:
    """End as an interpreter does, but for what it takes down last: all that was imported.

    A fork would copy each page of that for it, which is more than half of what a short life costs.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # what nobody holds any more complains here
    try:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()
    except OSError:
        return  # the interpreter says so, and ends with its own code
    os._exit(code)


if __name__ == "__main__":
    _main()
