"""Text of models and servers made safe for a terminal, and JSON made safe for a pipe."""

from __future__ import annotations

import json
import re
from typing import Any

# C0 and C1 controls but tab and line feed, and the marks that reorder what is read (CVE-2021-42574): a
# model's answer could otherwise recolour the terminal, rename its window or rewrite the lines above.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """The text without what a terminal would obey; `\\r\\n` becomes `\\n`."""
    return _UNSAFE.sub("", str(text).replace("\r\n", "\n"))


def one_line(text: object, width: int = 200) -> str:
    """The text on a single line of at most `width` characters."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def json_bytes(value: Any) -> bytes:
    """UTF-8 JSON, indented, with a line end. A lone surrogate is written as its escape."""
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")
