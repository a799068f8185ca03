"""`council master start` and `council node start`: the two programs, each alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from master.cli.options import ConfigOption, DataDirOption, HostOption, InsecureOption, PortOption

PortFileOption = Annotated[
    Path | None, typer.Option("--port-file", help="Write the address there as JSON when ready.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of this program.")]


def start_master(
    host: HostOption = None,
    port: PortOption = None,
    name: NameOption = None,
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", help="SQLAlchemy URL; SQLite in the data folder by default."),
    ] = None,
    local_node: Annotated[
        bool, typer.Option("--local-node", help="Start and keep a node on this machine.")
    ] = False,
    insecure_lan: InsecureOption = False,
    port_file: PortFileOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Start the master alone, in the foreground; nodes are added with `council worker add`."""
    from master.cli.addresses import load_settings
    from master.main import serve

    if config is not None:
        os.environ["COUNCIL_CONFIG"] = str(config.resolve())  # for a local node as well
    settings = load_settings(
        config,
        host=host,
        port=port,
        name=name,
        data_dir=data_dir,
        database_url=database_url,
        insecure_lan=insecure_lan or None,
    )
    raise typer.Exit(serve(settings, port_file=port_file, local_node=local_node))


def start_node(
    host: HostOption = None,
    port: PortOption = None,
    name: NameOption = None,
    join: Annotated[
        str | None, typer.Option("--join", help="Master to join, https://PC1:8000; auto looks for it.")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="What `council worker token` printed on the master.")
    ] = None,
    engine: Annotated[
        Literal["auto", "ollama", "openai", "embedded"] | None,
        typer.Option("--engine", help="What serves the models; auto looks for it."),
    ] = None,
    insecure_lan: InsecureOption = False,
    port_file: PortFileOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Start a worker node on this machine, in the foreground. It serves the engine found here."""
    import sys

    from master.cli.terminal import tell

    given = {
        "--host": host,
        "--port": port,
        "--name": name,
        "--join": join,
        "--token": token,
        "--engine": engine,
        "--port-file": port_file,
        "--config": config,
        "--data-dir": data_dir,
    }
    arguments = [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
    if insecure_lan:
        arguments.append("--insecure-lan")
    if sys.stdout.isatty():  # its engine may take a while
        tell("starting the node … (Ctrl-C stops it)")
    _become("worker_node", arguments)


def _become(program: str, arguments: list[str]) -> None:
    """Replace this process by the program; where that is not possible, wait for it and pass its code on."""
    import sys

    from master.cli.programs import program_command, program_environment

    command, environment = program_command(program, *arguments), program_environment()
    if sys.platform != "win32":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, environment)
    import subprocess

    with subprocess.Popen(command, env=environment) as process:
        while True:
            try:
                raise typer.Exit(process.wait())
            except KeyboardInterrupt:
                continue  # the program has received it as well and ends in order
