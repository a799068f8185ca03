"""`python -m worker_node`: flags, settings, choice of the engine, and the server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# What takes time to import comes late: `--help` answers at once.
if TYPE_CHECKING:
    import asyncio

    from common.node_settings import NodeSettings
    from common.program import Ready
    from common.tls import ReplacedCertificate
    from worker_node.membership import Belonging, Membership


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit code: 0 stopped, 1 could not start, 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    flags = {
        name: getattr(arguments, name)
        for name in ("host", "port", "name", "data_dir", "engine", "log_level", "join", "token")
    }
    from common.errors import CouncilError
    from common.node_settings import NodeSettings

    flags["insecure_lan"] = True if arguments.insecure_lan else None
    try:
        settings = NodeSettings.load("node", config=arguments.config, flags=flags)

        def ready(now: Ready) -> None:
            if arguments.port_file is not None:
                now.write(arguments.port_file)
            now.announce(sys.stdout)

        _run(settings, on_ready=ready, exit_with_parent=arguments.exit_with_parent)
    except CouncilError as error:
        sys.stderr.write(f"worker node: {error.detail}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"worker node: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker_node", description="Serve this machine's engine to a lan-council master."
    )
    parser.add_argument("--host", help="address to listen on (COUNCIL_NODE_HOST, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port, 0 for a free one (COUNCIL_NODE_PORT, 8001)")
    parser.add_argument("--name", help="name of the node (COUNCIL_NODE_NAME, this machine's)")
    parser.add_argument("--data-dir", type=Path, help="folder of everything that is kept (COUNCIL_DATA_DIR)")
    parser.add_argument("--engine", choices=("auto", "ollama", "openai", "embedded"))
    parser.add_argument("--config", type=Path, help="settings file in TOML (COUNCIL_CONFIG)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument(
        "--join", help="master to join, https://PC1:8000; auto looks for it (COUNCIL_NODE_JOIN)"
    )
    parser.add_argument("--token", help="what `council worker token` printed there (COUNCIL_NODE_TOKEN)")
    parser.add_argument("--insecure-lan", action="store_true", help="serve other machines without a key")
    parser.add_argument("--port-file", type=Path, help="write the address there as JSON when ready")
    parser.add_argument(
        "--exit-with-parent",
        action="store_true",
        help="stop when standard input closes (used by `council up`)",
    )
    return parser


def _run(settings: NodeSettings, *, on_ready: Callable[[Ready], None], exit_with_parent: bool) -> None:
    import asyncio

    from common import logs
    from common.program import loop_factory

    logs.configure(level=settings.log_level, fmt=settings.log_format, program="worker_node")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(settings, on_ready=on_ready, stop_with_stdin=exit_with_parent))


async def serve(
    settings: NodeSettings,
    *,
    on_ready: Callable[[Ready], None] | None = None,
    stop: asyncio.Event | None = None,
    stop_with_stdin: bool = False,
) -> None:
    """Serve a node until it is told to stop. Raises `SettingsError` when it cannot start.

    `on_ready` is called once, when the node answers; setting `stop` does what SIGTERM does.
    """
    from common.program import listen, url_of
    from common.security import is_loopback
    from worker_node.app import create_app
    from worker_node.call import CallLimits
    from worker_node.engine_choice import choose_engines
    from worker_node.membership import Belonging
    from worker_node.server import run
    from worker_node.service import NodeService
    from worker_node.standing import default_name, establish, settle

    settings, kept = settle(settings)
    listener = listen(settings.host, settings.port, port_variable="COUNCIL_NODE_PORT")
    port: int = listener.getsockname()[1]
    try:
        member = await establish(settings, kept, port=port)
        tls = _tls(settings, member)
        engines = await choose_engines(settings)
    except BaseException:
        listener.close()
        raise
    service = NodeService(
        name=settings.name or (member.name if member else default_name()),
        engines=engines,
        limits=CallLimits(settings.queue_timeout_s, settings.load_timeout_s),
        max_loaded_models=settings.max_loaded_models,
        max_queue=settings.max_queue,
    )
    belonging = Belonging(settings.data_dir, member)
    asks = settings.key is not None or member is not None
    _warn_of_the_lan(settings, asks=asks)
    await run(
        create_app(
            service,
            keys=(lambda: [key for key in (settings.key, belonging.key) if key is not None])
            if asks
            else None,
            loopback_only=is_loopback(settings.host),
            data_dir=settings.data_dir,
            belonging=belonging,
            exclusive=settings.exclusive_programs,
        ),
        service,
        listener,
        url=url_of(listener, settings.host, "https" if tls else "http"),
        drain_timeout_s=settings.drain_timeout_s,
        on_ready=on_ready or (lambda _ready: None),
        stop=stop,
        stop_with_stdin=stop_with_stdin,
        tls=tls.context if tls else None,
        beside=_beside(settings, member, belonging, port, tls),
    )


def _warn_of_the_lan(settings: NodeSettings, *, asks: bool) -> None:
    """Say at every start what `--insecure-lan` gives away (decision 0008)."""
    from common.logs import get_logger
    from common.security import is_loopback

    if not settings.insecure_lan or is_loopback(settings.host):
        return
    who = "read along what this node is sent, and its key" if asks else "use this node"
    get_logger(__name__).warning(f"everybody on this network can {who}: --insecure-lan")


def _tls(settings: NodeSettings, member: Membership | None) -> ReplacedCertificate | None:
    """What the server shows where other machines are served."""
    if not settings.serves_tls or member is None:
        return None
    from common.tls import ReplacedCertificate

    return ReplacedCertificate(member.chain, settings.data_dir)


def _beside(
    settings: NodeSettings,
    member: Membership | None,
    belonging: Belonging,
    port: int,
    tls: ReplacedCertificate | None,
) -> list[Callable[[], Coroutine[object, object, None]]]:
    """What a node does besides serving: it says that it is there; a member tells its master where it is, a
    stranger says how it is added, and which masters are on the LAN.
    """
    from common.security import is_loopback
    from worker_node.standing import default_name

    beside: list[Callable[[], Coroutine[object, object, None]]] = []
    if settings.discovery and not is_loopback(settings.host):
        from common.discovery import stay_announced

        own = member.fingerprint if member and tls else None
        name = settings.name or (member.name if member else default_name())
        beside.append(
            partial(stay_announced, role="node", name=name, host=settings.host, port=port, fingerprint=own)
        )
    if member is None:
        if settings.discovery and settings.join is None and is_loopback(settings.host):
            from worker_node.standing import tell_masters

            beside.append(partial(tell_masters, alone=True))
        return beside
    if member.master is not None:
        from worker_node.joining import stay_known

        return [*beside, partial(stay_known, member, port, belonging, tls)]
    if settings.discovery:
        from worker_node.standing import tell_masters

        beside.append(tell_masters)
    from common.addresses import url_for_others

    url = url_for_others("https", settings.host, port)
    sys.stderr.write(
        f"No master knows this node yet. On the master's PC, type:\n  council worker add {url} "
        f"--name {member.name} --key {settings.key or member.key} --fingerprint {member.fingerprint}\n"
    )
    sys.stderr.flush()
    return beside
