"""The `council` command: its sub-commands and the one place where failures become exit codes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

import typer

from common.errors import CouncilError
from master.cli.failure import CommandFailedError, ExitCode, from_council_error
from master.cli.terminal import survive_odd_encodings, tell

# Only the command that is called is imported and built; of the others the list below needs one line each.
COMMANDS = {
    "ask": ("ask:ask", "Ask the council: opinions, review, synthesis."),
    "up": ("up:up", "Start a council on this machine: master, node and page."),
    "doctor": ("doctor:doctor", "Say what is wrong here or in the cluster, and what to type."),
}
GROUPS = {
    "master": ("The master alone.", {"start": "start:start_master", "list": "masters:list"}),
    "node": ("A worker node on this machine.", {"start": "start:start_node"}),
    "worker": (
        "The nodes of the cluster.",
        {
            **{
                name: f"workers:{name}"
                for name in ("add", "list", "show", "drain", "resume", "remove", "wake")
            },
            "token": "tokens:token",
        },
    ),
    "models": (
        "The models of the cluster.",
        {name: f"models:{name}" for name in ("list", "recommended", "get", "pull")},
    ),
    "sessions": (
        "What was asked and answered.",
        {name: f"sessions:{name}" for name in ("list", "show", "export", "delete")},
    ),
    "archive": (
        "Conversations that are kept, and what was made of them.",
        {
            name: f"archives:{name}"
            for name in ("add", "list", "show", "search", "stats", "retry", "export", "import", "delete")
        },
    ),
    "jobs": (
        "Background work.",
        {
            **{
                name: f"jobs:{name}"
                for name in ("status", "list", "show", "submit", "cancel", "retry", "pause", "resume")
            },
            **{name: f"dead_jobs:{name}" for name in ("dead", "replay", "dismiss")},
            "gate": "gate:gate",
            "worker": "job_worker:worker",
            "schedules": "schedules:list",
            "schedule": "schedules:add",
            "unschedule": "schedules:remove",
        },
    ),
    "keys": (
        "Keys of people and programs.",
        {name: f"keys:{name}" for name in ("create", "list", "revoke")},
    ),
    "db": (
        "The database: backups, checks, moving it.",
        {name: f"database:{name}" for name in ("backup", "restore", "check", "migrate")},
    ),
    "config": (
        "Settings and certificates.",
        {
            "show": "configuration:show",
            "new-key": "configuration:new_key",
            "export-ca": "configuration:export_ca",
        },
    ),
}
_HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def build(wanted: str | None = None) -> typer.Typer:
    """The command tree, with `wanted` built whole and the others by their line of help.

    `"*"` builds all of them.
    """
    app = typer.Typer(
        name="council",
        help="A council of local language models on the PCs you already own.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # Plain help: Rich's panels would double the time that `--help` takes.
        rich_markup_mode=None,
        context_settings=_HELP_NAMES,
    )
    app.callback()(_root)
    for name, (place, about) in COMMANDS.items():
        function = _load(place) if wanted in (name, "*") else _not_built
        app.command(name, short_help=about, help=about if function is _not_built else None)(function)
    for name, (about, commands) in GROUPS.items():
        if wanted not in (name, "*"):
            app.command(name, help=about)(_not_built)
            continue
        group = typer.Typer(
            help=about, no_args_is_help=True, context_settings=_HELP_NAMES, rich_markup_mode=None
        )
        for command, place in commands.items():
            group.command(command)(_load(place))
        app.add_typer(group, name=name)
    return app


def _load(place: str) -> Callable[..., None]:
    module, _, name = place.partition(":")
    # `list` would hide the built-in where it is defined, and `import` is a word of the language.
    found: Callable[..., None] = getattr(
        importlib.import_module(f"master.cli.{module}"),
        {"list": "list_", "import": "import_"}.get(name, name),
    )
    return found


def _not_built() -> None:
    raise AssertionError("the command that is called is always built")


def _print_version(wanted: bool) -> None:
    if wanted:
        from common import __version__

        typer.echo(f"lan-council {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Options of the command itself; `version` is done by its callback."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    survive_odd_encodings()
    given = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((argument for argument in given if not argument.startswith("-")), None)
    try:
        build("*" if _completes() else wanted)(args=given, prog_name="council")
    except CommandFailedError as error:
        sys.exit(_end(error))
    except CouncilError as error:
        sys.exit(_end(from_council_error(error)))
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def _completes() -> bool:
    """Whether a shell asks for completions: then the words are in the environment, not in the arguments."""
    import os

    return "_COUNCIL_COMPLETE" in os.environ


def _end(error: CommandFailedError) -> int:
    tell(f"error: {error.message}")
    if error.hint:
        tell(f"  try: {error.hint}")
    return int(error.exit_code)


if __name__ == "__main__":
    main()
