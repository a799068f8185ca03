"""What both programs do to become a process that serves: the socket, the ready line, the loop, the parent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from common.errors import SettingsError

_BACKLOG = 2048
UNHEARD_S = 20


@dataclass(frozen=True, slots=True)
class Ready:
    """What a program tells when it serves: one line on standard output, and the port file."""

    url: str
    name: str
    pid: int

    def to_json(self) -> str:
        return json.dumps({"url": self.url, "name": self.name, "pid": self.pid})

    def announce(self, out: TextIO) -> None:
        """Say it on `out`: a sentence to a person on a terminal, the JSON line to a program."""
        sentence = f"{self.name} serves at {self.url} (Ctrl-C stops it)"
        out.write((sentence if out.isatty() else self.to_json()) + "\n")
        out.flush()

    def write(self, path: Path) -> None:
        """Write at once or not at all: whoever waits for the file must not read half of it."""
        part = path.with_name(f"{path.name}.part")
        part.write_text(self.to_json() + "\n", encoding="utf-8")
        part.replace(path)


def listen(host: str, port: int, *, port_variable: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `SettingsError` when the address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}: {error.strerror or error}") from error
    try:
        if sys.platform != "win32":  # there it would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _end_unheard(listener)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} on {host} is taken, perhaps by the same program in another window; stop that "
                f"one or choose another --port ({port_variable}; 0 takes a free one)"
            ) from error
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def _end_unheard(listener: socket.socket) -> None:
    """Let a connection end whose peer has confirmed nothing for `UNHEARD_S`; what is accepted inherits it.

    Left to itself TCP tries for a quarter of an hour to reach a PC that lost its cable, and as long the node
    generates for nobody.
    """
    with contextlib.suppress(OSError):  # a kernel that does not know it goes on as ever
        if sys.platform == "linux":
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_S * 1000)
        elif sys.platform == "darwin":
            listener.setsockopt(socket.IPPROTO_TCP, 0x80, UNHEARD_S)  # TCP_RXT_CONNDROPTIME
        elif sys.platform == "win32":
            listener.setsockopt(socket.IPPROTO_TCP, 5, UNHEARD_S)  # TCP_MAXRT


def url_of(listener: socket.socket, host: str, scheme: str = "http") -> str:
    """The address that reaches the socket from this machine."""
    port = listener.getsockname()[1]
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def loop_factory(*, by_select: bool = False) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster loop where there is one; Windows has asyncio's own.

    `by_select`: on Windows the one that waits by `select` and starts no processes, without which the driver
    of PostgreSQL does not work there.
    """
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop if by_select and sys.platform == "win32" else None
    return uvloop.new_event_loop


def when_the_parent_is_gone(then: Callable[[], None]) -> None:
    """Call `then` on the running loop when standard input closes, as it does however the parent dies.

    A daemon thread, because a pipe can be waited for in no other way on all systems.
    """
    loop = asyncio.get_running_loop()

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            # Not through `sys.stdin`: its lock would be held when this program ends.
            while os.read(0, 4096):
                continue
        with contextlib.suppress(RuntimeError):  # the loop is closed: this program ends already
            loop.call_soon_threadsafe(then)

    threading.Thread(target=wait, name="parent watch", daemon=True).start()


def collect_less_often() -> None:
    """Once a program has started: what start-up built stays, and full collections need not look at it again.

    A call makes some thousand objects that are gone with it. Looking for cycles among them every 700, as
    Python does by itself, took a twentieth of its CPU time.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
