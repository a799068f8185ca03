"""What a record of an export says: our own form, Open WebUI's and ChatGPT's. Pure.

Exports hold every branch of a conversation; what was shown last is what is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from master.knowledge.messages import ROLES, Conversation, clean, said

_SPOKEN = ("user", "assistant")
_REASONING = re.compile(
    r"<details\b[^>]*\btype=\"reasoning\".*?</details>\s*|<think>.*?</think>\s*", re.DOTALL
)
_REFERENCE_CHARS = 200
_MILLISECONDS = 1e11  # a time from here on is in milliseconds: in seconds it would be the year 5138


class UnreadableRecordError(ValueError):
    """Why a record is no conversation, in words for a person."""


def read(record: object) -> Conversation:
    """The conversation that a record holds. Raises `UnreadableRecordError`."""
    if not isinstance(record, dict):
        raise UnreadableRecordError("a conversation is a JSON object")
    if isinstance(record.get("mapping"), dict):
        found = _chatgpt(record)
    elif isinstance(chat := record.get("chat", record), dict) and "history" in chat:
        found = _open_webui(record, chat)
    elif isinstance(chat, dict) and isinstance(chat.get("messages"), list):
        found = _plain({**record, **chat} if chat is not record else record)
    elif "role" in record and "content" in record:
        raise UnreadableRecordError('this is one message; a conversation is {"messages": [...]}')
    else:
        raise UnreadableRecordError(
            "it has none of `messages` (JSON lines), `chat` (Open WebUI) and `mapping` (ChatGPT)"
        )
    if not found.messages:
        raise UnreadableRecordError("it has no message with text")
    return found


# -- {"messages": [{"role", "content"}], "title"?, "id"?, "created_at"?} ----------------------------------


def _plain(record: Mapping[str, Any]) -> Conversation:
    pairs = []
    for number, message in enumerate(record["messages"], 1):
        if not isinstance(message, dict):
            raise UnreadableRecordError(f"message {number} is no JSON object")
        role = message.get("role")
        if role not in ROLES:
            raise UnreadableRecordError(
                f"message {number} has the role {role!r}; there are {', '.join(ROLES)}"
            )
        pairs.append((str(role), _text(message.get("content"))))
    return _conversation(record, pairs, "jsonl", record.get("created_at"))


# -- Open WebUI -------------------------------------------------------------------------------------------


def _open_webui(record: Mapping[str, Any], chat: Mapping[str, Any]) -> Conversation:
    history = chat.get("history")
    nodes = history.get("messages") if isinstance(history, dict) else None
    if isinstance(nodes, dict) and nodes:
        last = history.get("currentId") if isinstance(history, dict) else None
        shown = list(_branch(nodes, str(last or _newest(nodes, "timestamp")), "parentId"))
    else:
        listed = chat.get("messages")
        shown = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    pairs = [
        (str(one["role"]), _REASONING.sub("", _text(one.get("content"))))
        for one in shown
        if one.get("role") in _SPOKEN
    ]
    when = record.get("created_at") or chat.get("timestamp")
    return _conversation({**chat, **record}, pairs, "open_webui", when)


# -- ChatGPT ----------------------------------------------------------------------------------------------


def _chatgpt(record: Mapping[str, Any]) -> Conversation:
    nodes = record["mapping"]
    last = record.get("current_node")
    if not isinstance(last, str) or last not in nodes:
        times = {
            key: node["message"]
            for key, node in nodes.items()
            if isinstance(node, dict) and isinstance(node.get("message"), dict)
        }
        last = _newest(times, "create_time")
    pairs = []
    for node in _branch(nodes, str(last), "parent"):
        message = node.get("message")
        if isinstance(message, dict) and _is_shown(message):
            pairs.append((str(message["author"]["role"]), _chatgpt_text(message.get("content"))))
    return _conversation(record, pairs, "chatgpt", record.get("create_time"))


def _is_shown(message: Mapping[str, Any]) -> bool:
    """Whether a person saw it: no instructions, no calls of tools and what they gave, nothing hidden."""
    author = message.get("author")
    if not isinstance(author, dict) or author.get("role") not in _SPOKEN:
        return False
    about = message.get("metadata")
    hidden = isinstance(about, dict) and about.get("is_visually_hidden_from_conversation")
    return not hidden and message.get("weight", 1) != 0 and message.get("recipient") in (None, "all")


def _chatgpt_text(content: object) -> str:
    if not isinstance(content, dict):
        return ""
    if content.get("content_type") in (
        "thoughts",
        "reasoning_recap",
        "user_editable_context",
        "model_editable_context",
    ):
        return ""
    parts = content.get("parts")
    if isinstance(parts, list):
        return "\n".join(filter(None, (_part(part) for part in parts)))
    return _text(content.get("text"))


# -- shared -----------------------------------------------------------------------------------------------


def _branch(nodes: Mapping[str, Any], last: str, parent: str) -> list[Mapping[str, Any]]:
    """The nodes from the root to `last`."""
    chain: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    current: str | None = last
    while current is not None and current in nodes and current not in seen:
        seen.add(current)
        node = nodes[current]
        if not isinstance(node, dict):
            break
        chain.append(node)
        above = node.get(parent)
        current = above if isinstance(above, str) else None
    return chain[::-1]


def _newest(nodes: Mapping[str, Any], field: str) -> str | None:
    """The key of the node that came last."""

    def when(key: str) -> float:
        node = nodes[key]
        found = node.get(field) if isinstance(node, dict) else None
        return float(found) if isinstance(found, int | float) else 0.0

    return max(nodes, key=when, default=None)


def _text(content: object) -> str:
    """The text of a message: a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        return "\n".join(filter(None, (_part(part) for part in content)))
    return content if isinstance(content, str) else ""


def _part(part: object) -> str:
    if isinstance(part, dict):
        part = part.get("text")
    return part if isinstance(part, str) else ""


def _conversation(
    record: Mapping[str, Any], pairs: list[tuple[str, str]], source: str, when: object
) -> Conversation:
    title = record.get("title")
    reference = record.get("conversation_id") or record.get("id")
    return Conversation(
        said(pairs),
        clean(title) if isinstance(title, str) and title.strip() else None,
        source,
        clean(str(reference))[:_REFERENCE_CHARS] if isinstance(reference, str | int) else None,
        _time(when),
    )


def _time(value: object) -> float | None:
    """Seconds since 1970 from seconds, milliseconds or ISO 8601; `None` for what is no time."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    seconds = value / 1000 if value >= _MILLISECONDS else float(value)
    return seconds if 0 < seconds < _MILLISECONDS else None
