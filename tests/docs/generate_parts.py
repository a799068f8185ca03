"""Parts of written pages that come from the code: the table of errors, the diagram of states."""

from __future__ import annotations

import re

from common.errors import CouncilError, RequestError, RetryableError
from master.background.states import TRANSITIONS as GATE_MOVES
from master.background.states import GateState
from master.council.states import OVER, TRANSITIONS, State


def errors_table() -> str:
    """Every error that can leave a program, in the order of the tree, with what a caller can do."""
    rows = ["| code | status | title | what a caller can do |", "|---|---|---|---|"]
    for kind in _concrete(CouncilError):
        rows.append(f"| `{kind.code}` | {kind.status} | {kind.title} | {_remedy(kind)} |")
    return "\n".join(rows)


def _concrete(root: type[CouncilError]) -> list[type[CouncilError]]:
    """Every kind below `root` that can be sent: all but the two that only sort the others."""
    found: list[type[CouncilError]] = []
    for child in root.__subclasses__():
        if child.__module__ != "common.errors":
            continue  # of one program alone
        if child not in (RetryableError, RequestError):
            found.append(child)
        found += _concrete(child)
    return found


def _remedy(kind: type[CouncilError]) -> str:
    if issubclass(kind, RetryableError):
        return "try again, here or on another node"
    return "change something" if issubclass(kind, RequestError) else "report it, with the log"


def state_diagram() -> str:
    """The table of moves as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.QUEUED}"]
    for state in State:
        lines += [f"    {state} --> {after}" for after in State if after in TRANSITIONS[state]]
    lines += [f"    {state} --> [*]" for state in State if state in OVER]
    return "\n".join([*lines, "```"])


def gate_diagram() -> str:
    """The gate's table of moves as a Mermaid diagram, each move with its reason."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {GateState.ACTIVE}"]
    for state, moves in GATE_MOVES.items():
        lines += [f"    {state} --> {after}: {reason}" for after, reason in moves.items()]
    return "\n".join([*lines, "```"])


PARTS = {
    "docs/api.md": {"errors": errors_table},
    "docs/architecture.md": {"states": state_diagram},
    "docs/guides/background.md": {"gate": gate_diagram},
}


def with_parts(path: str, text: str) -> str:
    """The page with each of its generated parts made anew. Raises `ValueError` where a marker is missing."""
    for name, make in PARTS[path].items():
        marked = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        text, count = marked.subn(lambda match, make=make: match[1] + make() + "\n" + match[2], text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{path} needs the markers of {name!r} once, and has them {count} times")
    return text
