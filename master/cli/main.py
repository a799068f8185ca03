"""The `council` command: its sub-commands and the one place where failures become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from common.errors import CouncilError
from master.cli import ask
from master.cli.failure import CommandFailedError, ExitCode, from_council_error
from master.cli.terminal import survive_odd_encodings, tell


def build() -> typer.Typer:
    """The command tree."""
    app = typer.Typer(
        name="council",
        help="A council of local language models on the PCs you already own.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command("ask")(ask.ask)
    return app


def _root(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    if version:
        from common import __version__

        typer.echo(f"lan-council {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    survive_odd_encodings()
    try:
        build()(args=list(arguments) if arguments is not None else None, prog_name="council")
    except CommandFailedError as error:
        sys.exit(_end(error))
    except CouncilError as error:
        sys.exit(_end(from_council_error(error)))
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def _end(error: CommandFailedError) -> int:
    tell(f"error: {error.message}")
    if error.hint:
        tell(f"  try: {error.hint}")
    return int(error.exit_code)


if __name__ == "__main__":
    main()
