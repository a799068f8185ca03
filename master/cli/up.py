"""`council up`: master, local node and page, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from master.cli.options import ConfigOption, DataDirOption, HostOption, InsecureOption, PortOption

if TYPE_CHECKING:
    from common.master_settings import MasterSettings


def up(
    host: HostOption = None,
    port: PortOption = None,
    node_port: Annotated[
        int | None, typer.Option("--node-port", min=0, max=65535, help="Port of the local node.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of this master.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    insecure_lan: InsecureOption = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Start a council on this machine: master, node and page. Ctrl-C stops it."""
    from common.settings import require_key_off_loopback
    from master.cli.addresses import load_settings
    from master.cli.interrupts import run

    settings = load_settings(
        config, host=host, port=port, name=name, data_dir=data_dir, insecure_lan=insecure_lan or None
    )
    require_key_off_loopback(
        host=settings.host, key=settings.key, insecure_lan=settings.insecure_lan, program="master"
    )
    raise typer.Exit(run(_up(settings, config, node_port, browser)))


async def _up(settings: MasterSettings, config: Path | None, node_port: int | None, browser: bool) -> int:
    import asyncio
    import signal

    from master.cli.addresses import RUNNING_FILE
    from master.cli.interrupts import Interrupts
    from master.cli.programs import Child
    from master.cli.terminal import tell

    await _refuse_a_second(settings)
    note = settings.data_dir / RUNNING_FILE
    arguments = ["--host", settings.host, "--port", str(settings.port), "--name", settings.name]
    arguments += ["--data-dir", str(settings.data_dir), "--local-node", "--exit-with-parent"]
    arguments += ["--port-file", str(note)]
    if settings.insecure_lan:
        arguments.append("--insecure-lan")
    if config is not None:
        arguments += ["--config", str(config)]
    tell("starting the council … (Ctrl-C stops it)")
    child = Child("master", arguments, echo=True, stop_within_s=40.0, **_environment(node_port))
    with Interrupts(signal.SIGTERM) as interrupts:
        running = asyncio.create_task(_run(child, browser, settings))
        first = asyncio.create_task(interrupts.first.wait())
        second = asyncio.create_task(interrupts.second.wait())
        try:
            await asyncio.wait({running, first}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            tell("stopping … (Ctrl-C again stops at once)")
            running.cancel()
            await asyncio.wait({running, second}, return_when=asyncio.FIRST_COMPLETED)
            return 0
        finally:
            if second.done():
                child.kill()
            for task in (running, first, second):
                task.cancel()
            await asyncio.gather(running, first, second, return_exceptions=True)
            if child.ready:
                note.unlink(missing_ok=True)


async def _run(child: object, browser: bool, settings: MasterSettings) -> int:
    """Serve until the child ends by itself; its exit code, never 0."""
    import asyncio
    import socket

    from master.cli.addresses import reachable
    from master.cli.programs import Child
    from master.cli.terminal import tell

    assert isinstance(child, Child)
    async with child:
        url = reachable(str(child.ready["url"]))
        scheme, port = url.partition(":")[0], url.rsplit(":", 1)[-1]
        name = await asyncio.to_thread(_certified_name, settings.tls_cert) if scheme == "https" else None
        url = f"https://{name}:{port}" if name else url
        typer.echo(f"The council is at {url}")
        if settings.host in ("0.0.0.0", "::"):
            typer.echo(f"Other machines reach it at {scheme}://{name or socket.gethostname()}:{port}")
        health = await child.until_ready(data_dir=settings.data_dir)
        typer.echo(f'Ready ({health.get("status")}). Ask on the page, or: council ask --url {url} "…"')
        if browser and _can_show_a_page():
            import webbrowser

            webbrowser.open(url)
        code = await child.wait()
    tell(f"error: the master ended by itself (exit code {code})")
    return 1


def _certified_name(chain: Path | None) -> str | None:
    """A name of a person's certificate that leads to this machine: browsers warn of it at 127.0.0.1."""
    import socket

    from common.addresses import own_addresses
    from common.certificates import host_names
    from common.security import is_loopback

    try:
        names = host_names(chain.read_text(encoding="ascii")) if chain is not None else []
    except (OSError, ValueError):
        return None  # the master says what is wrong with the file
    here = set(own_addresses())
    for name in names:
        try:
            found = {str(one[4][0]).split("%")[0] for one in socket.getaddrinfo(name, None)}
        except (OSError, UnicodeError):
            continue
        if found & here or any(map(is_loopback, found)):  # Debian has its own name at 127.0.1.1
            return name
    return None


def _environment(node_port: int | None) -> dict[str, str | None]:
    import os

    return {
        "COUNCIL_NODE_PORT": None if node_port is None else str(node_port),
        # What a person sees on this terminal is what went wrong; `COUNCIL_LOG_LEVEL` shows more.
        "COUNCIL_LOG_LEVEL": os.environ.get("COUNCIL_LOG_LEVEL") or "warning",
    }


async def _refuse_a_second(settings: MasterSettings) -> None:
    """Raise when the port or the data folder is taken, before anything is touched."""
    from master.cli.addresses import default_url, read_running
    from master.cli.failure import CommandFailedError
    from master.cli.locate import probe
    from master.cli.ports import listener_on

    hint = "open that page, stop that process, or give this one a place of its own: " + (
        f"council up --port {settings.port + 10} --data-dir DIR"
    )
    holder = listener_on(settings.host, settings.port) if settings.port else None
    if holder is not None:
        url = default_url(settings)
        health = await probe(url, settings.data_dir) or {}
        if health.get("role") == "master":
            raise CommandFailedError(f"a council runs already at {url}: {holder}", hint=hint)
        raise CommandFailedError(
            f"port {settings.port} is taken by {holder}",
            hint=f"choose another: council up --port {settings.port + 10}",
        )
    running = read_running(settings.data_dir)
    if running and (await probe(running, settings.data_dir) or {}).get("role") == "master":
        port = int(running.rsplit(":", 1)[-1])
        raise CommandFailedError(
            f"the data folder {settings.data_dir} is used by the council at {running}: "
            f"{listener_on('127.0.0.1', port) or 'another process'}",
            hint=hint,
        )


def _can_show_a_page() -> bool:
    """A browser of one's own window: never a text browser in this terminal, never in a script."""
    import os
    import sys

    if not sys.stdout.isatty():
        return False
    return not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
