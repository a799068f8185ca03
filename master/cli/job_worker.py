"""`council jobs worker`: run background jobs in a process of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from master.cli.options import ConfigOption, DataDirOption, KeyOption, UrlOption


def worker(
    url: UrlOption = None,
    key: KeyOption = None,
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", help="Database of the master; by default the one in the data folder."),
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when standard input closes.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run background jobs in the foreground, at a low priority, until Ctrl-C.

    It shares the master's database: SQLite on the master's machine, PostgreSQL from anywhere. Model calls go
    through the master. What it leaves when it dies, another takes up within seconds.
    """
    from master.background.worker import run_worker
    from master.cli.addresses import load_settings
    from master.cli.interrupts import run
    from master.cli.locate import require

    settings = load_settings(config, data_dir=data_dir, database_url=database_url)
    found = run(require(url, key))
    raise typer.Exit(
        run_worker(
            settings,
            url=found.url,
            key=found.key,
            verify=found.verify,
            exit_with_parent=exit_with_parent,
        )
    )
