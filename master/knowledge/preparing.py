"""A conversation as the row that keeps it. Pure, and slow enough for long ones to be done beside the loop."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from master.council.budget import Measure, estimate_tokens
from master.council.view import CouncilSession
from master.knowledge import prompts, quick, session_text
from master.knowledge.archive_text import search_text, stored_terms
from master.knowledge.chunks import split, write_plan
from master.knowledge.messages import Conversation, Said, dump, hash_of, title_of
from master.knowledge.sections import SCHEMA_VERSION
from master.state.archive_records import NewArchive

MOST_CHUNK_TOKENS = 3000  # small models lose the thread in longer texts, whatever their context
MOST_ANSWER_TOKENS = 1024
USUAL_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Slot:
    """The context that a background call may meet, in tokens, and how tokens are counted there."""

    context: int = USUAL_CONTEXT
    measure: Measure = estimate_tokens
    practice: bool = False  # a practice model would answer

    @property
    def answer(self) -> int:
        return min(MOST_ANSWER_TOKENS, self.context // 3)

    @property
    def room(self) -> int:
        return min(MOST_CHUNK_TOKENS, self.context - self.answer - prompts.INSTRUCTION_TOKENS)


def plan_for(messages: Sequence[Said], slot: Slot) -> dict[str, Any]:
    """The chunks in which a conversation is read by what answers in `slot`."""
    return write_plan(split(messages, slot.room, slot.measure), slot.answer)


def prepare(conversation: Conversation, slot: Slot, sessions: Sequence[CouncilSession] = ()) -> NewArchive:
    """Hash it, cut it into chunks, and take its first sentences for a summary."""
    messages = conversation.messages
    raw, title = dump(messages), title_of(conversation)
    plan = plan_for(messages, slot)
    first_words = quick.extract(messages)
    occurred = conversation.occurred_at
    return NewArchive(
        id=str(uuid.uuid4()),
        raw_sha256=hash_of(raw),
        source=conversation.source,
        reference=conversation.reference,
        title=title,
        messages=raw,
        messages_count=len(messages),
        characters=sum(len(one.content) for one in messages),
        chunks_total=len(plan["chunks"]),
        plan=plan,
        quick_summary=first_words,
        schema_version=SCHEMA_VERSION,
        search_text=search_text(title, first_words, messages),
        conversation_id=sessions[0].conversation_id if sessions else None,
        session_ids=[one.id for one in sessions],
        notes=[session_text.note_of(one) for one in sessions],
        occurred_at=datetime.fromtimestamp(occurred, UTC) if occurred is not None else None,
        practice=any(one.practice for one in sessions),
        terms=stored_terms(title, messages),
    )
