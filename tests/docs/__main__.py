"""`python -m tests.docs`: write the generated pages and parts of pages anew."""

from __future__ import annotations

from pathlib import Path

from tests.docs.generate_cli import cli_page
from tests.docs.generate_parts import PARTS, with_parts
from tests.docs.generate_settings import environment_sample, settings_page

ROOT = Path(__file__).resolve().parents[2]


def generated() -> dict[str, str]:
    """Each generated file by its path in the repository, and what it should hold."""
    whole = {
        "docs/settings.md": settings_page(),
        "configs/.env.sample": environment_sample(),
        "docs/cli.md": cli_page(),
    }
    parts = {path: with_parts(path, (ROOT / path).read_text(encoding="utf-8")) for path in PARTS}
    return {**whole, **parts}


def main() -> None:
    for path, text in generated().items():
        (ROOT / path).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
