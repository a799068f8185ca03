"""Where the command writes: answers and tables on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from master.cli.printable import json_bytes, printable

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def console() -> Console:
    """Standard output: control codes on a terminal only, and as wide as tables need elsewhere."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(highlight=False, markup=False, emoji=False, width=120, color_system=None)


def tell(line: str) -> None:
    """One line on standard error."""
    sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """JSON on standard output, UTF-8 whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(json_bytes(value))
    sys.stdout.buffer.flush()


def write_text(text: str, output: Path | None) -> None:
    """A document into a file, or on standard output; a terminal gets it without control codes.

    Raises `CommandFailedError` where the file cannot be written.
    """
    from master.cli.failure import CommandFailedError

    if output is None:
        shown = printable(text) if sys.stdout.isatty() else text
        sys.stdout.buffer.write(shown.rstrip("\n").encode("utf-8", "replace") + b"\n")
        sys.stdout.buffer.flush()
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailedError(f"cannot write {output}: {error.strerror or error}") from error


def print_table(title: str, columns: list[str], rows: list[list[object]], *, empty: str) -> None:
    """Rows under a title on standard output, or the line `empty`. Numbers are set to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = console()
    if not rows:
        out.print(Text(empty))
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else printable(cell)) for cell in row))
    out.print(table)


def human_size(size: object) -> str | None:
    """Bytes as people read them: `1.3 GB`."""
    if not isinstance(size, int | float) or size <= 0:
        return None
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def drop_output() -> None:
    """Nobody reads standard output any more: what is still buffered must not fail at the exit."""
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def survive_odd_encodings() -> None:
    """A console that cannot show a character shows `?`: an answer must never end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
