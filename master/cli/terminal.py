"""Where the command writes: answers and tables on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from master.cli.printable import json_bytes, printable

if TYPE_CHECKING:
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


def survive_odd_encodings() -> None:
    """A console that cannot show a character shows `?`: an answer must never end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
