"""What is asked and of whom, read from the command line, a pipe or a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

from master.cli.failure import UsageFailedError

READ_AT_MOST_BYTES = 4 * 1024 * 1024  # far beyond what a master takes: its refusal names the true limit


def read_question(argument: str | None, file: Path | None, stdin: BinaryIO | None = None) -> str:
    """The question. Raises `UsageFailedError` when there is none, or it is not text."""
    if argument is not None and argument != "-" and file is not None:
        raise UsageFailedError("give the question or --file, not both")
    if file is not None:
        try:
            with file.open("rb") as opened:
                return _decode(opened.read(READ_AT_MOST_BYTES + 1), str(file))
        except OSError as error:
            raise UsageFailedError(f"cannot read {file}: {error.strerror or error}") from error
    if argument is not None and argument != "-":
        return _decode(argument.encode("utf-8", "surrogateescape"), "the question")
    if argument is None and sys.stdin.isatty() and stdin is None:
        raise UsageFailedError(
            "what is the question?", hint='council ask "Why is the sky blue?" · or pipe it in · or --file'
        )
    return _decode((stdin or sys.stdin.buffer).read(READ_AT_MOST_BYTES + 1), "standard input")


def _decode(raw: bytes, source: str) -> str:
    if len(raw) > READ_AT_MOST_BYTES:
        raise UsageFailedError(f"{source} is longer than {READ_AT_MOST_BYTES // 1024**2} MiB: no question is")
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageFailedError(f"{source} is not UTF-8 text (byte {error.start})") from error
    if not text:
        raise UsageFailedError(f"{source} is empty", hint='council ask "Why is the sky blue?"')
    return text


def parse_agents(together: str | None, single: list[str], personas: list[str]) -> list[Any] | None:
    """The seats in the order given, `None` when the cluster is to choose.

    `together` is `m1,m2`; each of `single` is `MODEL` or `MODEL=persona`; `personas` go to the seats in
    order that have none yet.
    """
    named = [part.strip() for part in (together or "").split(",")] if together is not None else []
    if together is not None and not all(named):
        raise UsageFailedError("--agents has an empty name", hint="--agents llama3.2:1b,phi3.5")
    seats: list[dict[str, str]] = []
    for entry in [*named, *single]:
        model, _, persona = entry.partition("=")
        if not model.strip():
            raise UsageFailedError(f"--agent {entry!r} names no model", hint="--agent MODEL=persona")
        seats.append({"model": model.strip(), **({"persona": persona.strip()} if persona.strip() else {})})
    free = [seat for seat in seats if "persona" not in seat]
    if len(personas) > len(free):
        raise UsageFailedError(
            f"{len(personas)} personas for {len(free)} seats without one",
            hint="name the seats: --agent llama3.2:1b --persona sceptic",
        )
    for seat, persona in zip(free, personas, strict=False):
        seat["persona"] = persona
    if not seats:
        return None
    return [seat if "persona" in seat else seat["model"] for seat in seats]


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` options for the models; a value that reads as JSON is taken as such."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name.strip() or not equals:
            raise UsageFailedError(f"--option {pair!r} is not NAME=VALUE", hint="--option temperature=0.7")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found
