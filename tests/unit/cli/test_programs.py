"""Our programs as children: what of their logs is shown, and in which environment they run."""

from __future__ import annotations

import pytest

from master.cli.programs import program_environment, readable


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '{"event": "node lost", "level": "warning", "node": "pc2", "program": "master"}',
            "warning: node lost (node=pc2)",
        ),
        ('{"event": "stopping"}', "info: stopping"),
        ("council master: port 8000 is taken", "council master: port 8000 is taken"),
        ("[1, 2]", "[1, 2]"),
        ("\x1b[31mred", "[31mred"),
    ],
)
def test_a_log_line_is_readable(line: str, shown: str) -> None:
    assert readable(line) == shown


def test_a_child_never_runs_what_lies_in_the_working_directory() -> None:
    environment = program_environment(COUNCIL_NODE_PORT="0", COUNCIL_LOG_LEVEL=None)
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["COUNCIL_NODE_PORT"] == "0"
    assert environment.get("COUNCIL_LOG_LEVEL") is None
