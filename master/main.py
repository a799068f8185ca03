"""The entry point of the master: settings, logs, one server, and the local node where asked."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from common import logs
from common.addresses import own_addresses
from common.errors import ConflictError, CouncilError, SettingsError
from common.http_server import BoundedHttp
from common.master_settings import MasterSettings
from common.node_settings import NodeSettings
from common.program import Ready, collect_less_often, listen, loop_factory, url_of, when_the_parent_is_gone
from common.security import is_loopback
from common.settings import require_key_off_loopback
from master.app import as_served, create_app
from master.local_node import LocalNode
from master.services import Services

_SHUTDOWN_S = 5


def main(argv: list[str] | None = None) -> int:
    """`python -m master`: exit 0 after an orderly stop, 1 with one clear line otherwise."""
    flags = _parser().parse_args(argv)
    if flags.config is not None:
        os.environ["COUNCIL_CONFIG"] = str(flags.config.resolve())  # for the local node as well
    try:
        settings = MasterSettings.load(
            "master",
            config=flags.config,
            flags={
                "host": flags.host,
                "port": flags.port,
                "data_dir": flags.data_dir,
                "name": flags.name,
                "database_url": flags.database_url,
                "insecure_lan": flags.insecure_lan,
            },
        )
        return serve(
            settings,
            port_file=flags.port_file,
            exit_with_parent=flags.exit_with_parent,
            local_node=flags.local_node,
        )
    except CouncilError as error:
        print(f"council master: {error.detail}", file=sys.stderr)  # noqa: T201  # the one line for a person
        return 1


def serve(
    settings: MasterSettings,
    *,
    port_file: Path | None = None,
    exit_with_parent: bool = False,
    local_node: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT. Raises `CouncilError` when it cannot start."""
    require_key_off_loopback(
        host=settings.host, key=settings.key, insecure_lan=settings.insecure_lan, program="master"
    )
    logs.configure(level=settings.log_level, fmt=settings.log_format, program="master")
    if settings.insecure_lan and not is_loopback(settings.host):
        logs.get_logger(__name__).warning("everybody on this network can use this master: --insecure-lan")
    listener = listen(settings.host, settings.port, port_variable="COUNCIL_PORT")
    with listener:
        with asyncio.Runner(loop_factory=loop_factory(by_select=settings.on_server)) as runner:
            return runner.run(_serve(settings, listener, port_file, exit_with_parent, local_node))


async def _serve(
    settings: MasterSettings,
    listener: socket.socket,
    port_file: Path | None,
    exit_with_parent: bool,
    local_node: bool,
) -> int:
    app = create_app(settings)
    # The lifespan is entered here and not by uvicorn: a start that fails must be an error, not a log line.
    server = _Server(
        lambda: app.state.services.stop(),
        uvicorn.Config(
            as_served(app, settings),
            log_config=None,
            http=BoundedHttp,
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_S,
            ws="websockets-sansio",
            ws_max_size=64 * 1024,
            server_header=False,
            lifespan="off",
            ssl_context_factory=_tls_of(app) if settings.serves_tls else None,
        ),
    )
    async with app.router.lifespan_context(app):
        services: Services = app.state.services
        _stop_on_signals(server, exit_with_parent)
        async with contextlib.AsyncExitStack() as stack:
            collect_less_often()
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            ready = asyncio.create_task(server.ready.wait())
            if local_node:
                await stack.enter_async_context(_local_node(settings, services))
            await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready_line = _announce(settings, listener, port_file)
                await _tell_masters(settings, ready_line.url, services)
                await stack.enter_async_context(_on_the_lan(settings, listener, services))
            ready.cancel()
            await serving
    return 0


@contextlib.asynccontextmanager
async def _on_the_lan(
    settings: MasterSettings, listener: socket.socket, services: Services
) -> AsyncIterator[None]:
    """Other machines find this master by mDNS, where it serves them and nobody switched that off."""
    if is_loopback(settings.host) or not settings.discovery:
        yield
        return
    from common.discovery import stay_announced

    announcing = asyncio.create_task(
        stay_announced(
            role="master",
            name=settings.name,
            host=settings.host,
            port=listener.getsockname()[1],
            fingerprint=services.authority.fingerprint if services.authority else None,
        )
    )
    try:
        yield
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)


def _tls_of(app: FastAPI) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext]:
    """What makes the server's context once the services run, which own the authority."""

    def context(_config: uvicorn.Config, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        services: Services = app.state.services
        if services.authority is None:
            raise AssertionError("a master that serves TLS has an authority")
        return services.authority.context

    return context


class _Server(uvicorn.Server):
    """Tells when it is ready, lets `before_shutdown` end what holds connections open, and does not raise a
    signal again once it has stopped: that would cut our own clean-up off.
    """

    def __init__(self, before_shutdown: Callable[[], Awaitable[None]], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown
        self.ready = asyncio.Event()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._before_shutdown()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _local_node(settings: MasterSettings, services: Services) -> contextlib.AbstractAsyncContextManager[None]:
    if sys.platform == "win32" and settings.on_server:
        raise SettingsError(
            "on Windows a master on PostgreSQL cannot start a node; start it in a window of its own with "
            "`council node start`, and this with `council master start`"
        )
    of_node = NodeSettings.load("node")
    name = of_node.name or "local"

    def ready(url: str) -> None:
        with contextlib.suppress(ConflictError):  # a restarted node has its old address
            services.registry.add(url, name=name, key=of_node.key)

    services.registry.expect(name)
    node = LocalNode(name=name, port=of_node.port, data_dir=settings.data_dir, on_ready=ready)
    return node.running()


def _announce(settings: MasterSettings, listener: socket.socket, port_file: Path | None) -> Ready:
    scheme = "https" if settings.serves_tls else "http"
    ready = Ready(url_of(listener, settings.host, scheme), settings.name, os.getpid())
    ready.announce(sys.stdout)  # a parent process reads it
    if port_file is not None:
        ready.write(port_file)
    return ready


async def _tell_masters(settings: MasterSettings, url: str, services: Services) -> None:
    """Where other masters on the same database reach this one; nowhere, where it listens to itself alone."""
    presence = services.masters.presence
    if presence is None:
        return
    at = presence.address
    if settings.peer_url is not None:
        url = settings.peer_url.rstrip("/")
    elif is_loopback(settings.host):
        url = url if is_loopback(at) else ""
    elif settings.host in ("0.0.0.0", "::"):
        address = at if not is_loopback(at) else next(iter(own_addresses()), at)
        parts = urlsplit(url)
        host = f"[{address}]" if ":" in address else address
        url = f"{parts.scheme}://{host}:{parts.port}"
    await presence.announce(url)


def _stop_on_signals(server: uvicorn.Server, exit_with_parent: bool) -> None:
    """Stop in order on SIGINT and SIGTERM; a parent that is gone counts as one."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(
                number, lambda got, frame: loop.call_soon_threadsafe(server.handle_exit, got, frame)
            )
        else:
            loop.add_signal_handler(number, server.handle_exit, number, None)
    if exit_with_parent:
        when_the_parent_is_gone(lambda: server.handle_exit(signal.SIGTERM, None))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m master", description="The master of a lan-council cluster."
    )
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--database-url")
    parser.add_argument("--insecure-lan", action="store_true", default=None)
    parser.add_argument("--port-file", type=Path, help="Write the ready line there as well.")
    parser.add_argument("--exit-with-parent", action="store_true", help="Stop when standard input closes.")
    parser.add_argument("--local-node", action="store_true", help="Start and keep a node on this machine.")
    return parser
