"""An archive as a Markdown document: a projection of its row, made anew whenever it is asked for. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from master.knowledge.messages import Said
from master.knowledge.sections import NAMES, TITLES, Sections

_PEOPLE = {"user": "Person", "assistant": "Council", "system": "System", "tool": "Tool"}


@dataclass(frozen=True, slots=True)
class Head:
    """What the front matter says."""

    id: str
    title: str
    status: str
    source: str
    conversation_id: str | None
    session_ids: Sequence[str]
    messages: int
    raw_sha256: str
    quick_summary: str
    created_at: datetime
    occurred_at: datetime | None = None
    structured_at: datetime | None = None
    models: Sequence[str] = ()
    schema_version: int = 1
    practice: bool = False
    dropped: int = 0
    origin_deleted_at: datetime | None = None
    problem: str | None = None
    notes: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def markdown(head: Head, sections: Sections | None, messages: Sequence[Said] = ()) -> str:
    """The document; with the whole conversation at its end where `messages` are given."""
    parts = [_front_matter(head), f"# {plain(head.title)}"]
    if head.practice:
        parts.append("> Practice models took part: what they wrote has no meaning.")
    parts += [f"> {plain(line)}" for line in _told(head.notes)]
    if head.problem is not None:
        parts.append(f"> Structuring it failed: {plain(head.problem)}")
    if sections is None:
        parts += [plain(head.quick_summary), "*Not structured yet: this is the quick summary.*"]
    else:
        parts.append(plain(sections.summary or head.quick_summary))
        for name in NAMES:
            if found := sections.of(name):
                lines = "\n".join(f"- {plain(item.text)} [{item.message}]" for item in found)
                parts.append(f"## {TITLES[name]}\n\n{lines}")
        if not sections.count:
            parts.append("*No item that the conversation supports was found.*")
    if messages:
        parts.append("## Conversation")
        parts += [
            f"### {number}. {_PEOPLE.get(one.role, one.role)}\n\n{_quoted(one.content)}"
            for number, one in enumerate(messages, 1)
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Text on one line that cannot become markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _front_matter(head: Head) -> str:
    values: dict[str, Any] = {
        "archive": head.id,
        "title": head.title,
        "status": head.status,
        "source": head.source,
        "conversation": head.conversation_id,
        "sessions": list(head.session_ids),
        "messages": head.messages,
        "created": _time(head.created_at),
        "occurred": _time(head.occurred_at),
        "structured": _time(head.structured_at),
        "models": list(head.models),
        "practice": head.practice,
        "unsupported_items_dropped": head.dropped,
        "source_deleted": _time(head.origin_deleted_at),
        "schema_version": head.schema_version,
        "raw_sha256": head.raw_sha256,
    }
    # A JSON value on one line is a YAML value.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _told(notes: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for note in notes:
        missing = ", ".join(note.get("missing_agents") or ())
        if missing:
            lines.append(f"Session {note.get('session_id')}: without {missing}.")
        if note.get("contested"):
            lines.append(f"Session {note.get('session_id')}: the reviewers did not agree.")
    return lines


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def _quoted(text: str) -> str:
    """Somebody's Markdown inside ours: quoted, so that its headings stay its own."""
    return "\n".join(f"> {line}" if line else ">" for line in text.splitlines())
