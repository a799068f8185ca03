"""The node as a process: socket, signals, and the way out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import FrameType

import uvicorn

from common.asgi import App
from common.http_server import BoundedHttp
from common.logs import get_logger
from common.program import Ready, collect_less_often, when_the_parent_is_gone
from worker_node.service import NodeService

log = get_logger(__name__)

# Longer than the master's clients keep idle connections, so that the node never closes one just in use.
KEEP_ALIVE_S = 75
_CLOSE_S = 2


class NodeServer(uvicorn.Server):
    """uvicorn that answers while it drains: callers hear `node_draining`, not a refused connection."""

    def __init__(
        self, config: uvicorn.Config, *, stop_asked: asyncio.Event, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.stop_asked = stop_asked
        self._on_started = on_started
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals ask for a drain; a second one ends at once. Left to others off the main thread."""
        import threading

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = ["SIGINT", "SIGTERM", "SIGBREAK"]  # the last one is Windows' Ctrl-Break
        wanted = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {one: signal.signal(one, self._signalled) for one in wanted}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        if self.stop_asked.is_set():
            self.force_exit = True
            self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.stop_asked.set)


async def run(
    app: App,
    service: NodeService,
    listener: socket.socket,
    *,
    url: str,
    drain_timeout_s: float,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event | None = None,
    stop_with_stdin: bool = False,
    tls: ssl.SSLContext | None = None,
    beside: Sequence[Callable[[], Coroutine[object, object, None]]] = (),
) -> None:
    """Serve until a signal, until `stop` is set, or with `stop_with_stdin` until standard input closes.

    Then drain and return. `beside`: what runs as long as the node answers, and is cancelled then.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        http=BoundedHttp,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=_CLOSE_S,
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )
    ready = Ready(url, service.name, os.getpid())
    companions: list[asyncio.Task[None]] = []

    def started() -> None:
        companions.extend(group.create_task(one()) for one in beside)
        on_ready(ready)

    server = NodeServer(config, stop_asked=stop or asyncio.Event(), on_started=started)
    await service.start()
    collect_less_often()
    try:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listener]))
            if stop_with_stdin:
                when_the_parent_is_gone(server.stop_asked.set)
            stopping = group.create_task(_stop_when_asked(server, service, drain_timeout_s))
            await asyncio.wait((serving,))
            for task in (stopping, *companions):
                task.cancel()
    finally:
        await service.stop()
        listener.close()


async def _stop_when_asked(server: NodeServer, service: NodeService, drain_timeout_s: float) -> None:
    await server.stop_asked.wait()
    await service.drain(drain_timeout_s)
    server.should_exit = True
