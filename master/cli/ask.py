"""`council ask`: put one question to the council and watch it answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from master.cli.options import ConfigOption, DataDirOption, KeyOption, UrlOption


def ask(
    question: Annotated[
        str | None,
        typer.Argument(help="The question; `-` or nothing reads it from a pipe.", show_default=False),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the question from a file.")] = None,
    agents: Annotated[str | None, typer.Option("--agents", help="Models of the seats, `m1,m2,m3`.")] = None,
    agent: Annotated[
        list[str] | None, typer.Option("--agent", help="One seat, `MODEL` or `MODEL=persona`; repeatable.")
    ] = None,
    persona: Annotated[
        list[str] | None, typer.Option("--persona", help="Persona of the next seat without one; repeatable.")
    ] = None,
    chairman: Annotated[
        str | None, typer.Option("--chairman", help="Model that writes the synthesis.")
    ] = None,
    chairman_fallback: Annotated[
        list[str] | None,
        typer.Option("--chairman-fallback", help="Chairman when the first fails; repeatable."),
    ] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", help="Go on with this conversation.")
    ] = None,
    quorum: Annotated[int | None, typer.Option("--quorum", min=1, help="Least number of opinions.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="For the models, `temperature=0.7`; repeatable."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the ended session as JSON, only that.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 3 when seats were lost on the way.")] = False,
    live: Annotated[bool, typer.Option("--live/--no-live", help="Live panels on a terminal.")] = True,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="Cancel after so many seconds.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Ask the council: opinions, review, synthesis.

    Uses the master that runs here or at --url, else brings up one of its own for the duration.
    """
    from master.cli.asking import Ask, run_ask
    from master.cli.interrupts import run
    from master.cli.question import parse_agents, parse_options, read_question

    given = {
        "question": read_question(question, file),
        "selected_agents": parse_agents(agents, agent or [], persona or []),
        "chairman": chairman,
        "chairman_fallbacks": chairman_fallback or None,
        "conversation_id": conversation,
        "quorum": quorum,
        "options": parse_options(option or []) or None,
    }
    body = {name: value for name, value in given.items() if value is not None}
    code = run(
        run_ask(
            Ask(
                body=body,
                url=url,
                key=key,
                config=config,
                data_dir=data_dir,
                as_json=as_json,
                live=live,
                strict=strict,
                timeout_s=timeout,
            )
        )
    )
    raise typer.Exit(code)
