"""A job's context in this process: a model that is a script, steps that are forgotten like after a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import uuid4

from common.usage import CallLatency, TokenUsage
from master.background.job import BackgroundCall, Json
from master.cluster.calls import Answer
from master.knowledge.archive_text import search_text, stored_terms
from master.knowledge.chunks import split, write_plan
from master.knowledge.messages import Said, dump, hash_of
from master.knowledge.sections import SCHEMA_VERSION
from master.state.archive_records import NewArchive
from master.state.store import Store

Reply = str | BaseException | Callable[[BackgroundCall], str]
Value = TypeVar("Value", bound=Json)


class ScriptedContext:
    """Each call takes the next reply; an error is raised in its place. The last reply repeats."""

    def __init__(
        self, store: Store, *replies: Reply, practice: bool = False, model: str = "small:3b"
    ) -> None:
        self.store = store
        self.job_id = str(uuid4())
        self.calls: list[BackgroundCall] = []
        self.steps: list[str] = []
        self.told: list[tuple[int, int, str]] = []
        self._replies = list(replies)
        self._practice = practice
        self._model = model

    async def step(self, name: str, do: Callable[[], Awaitable[Value]]) -> Value:
        self.steps.append(name)
        return await do()

    async def generate(self, call: BackgroundCall) -> Answer:
        self.calls.append(call)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, BaseException):
            raise reply
        text = reply if isinstance(reply, str) else reply(call)
        return Answer(
            "pc2",
            text,
            "",
            "stop",
            TokenUsage.of(100, 10),
            CallLatency(total_ms=5.0),
            self._model,
            self._practice,
        )

    async def progress(self, done: int, total: int, note: str = "") -> None:
        self.told.append((done, total, note))


async def keep(
    store: Store,
    messages: Sequence[Said],
    *,
    room: int = 2000,
    source: str = "messages",
    talk: str | None = None,
) -> str:
    """Store a conversation, cut for a room of so many tokens; its archive's id."""
    raw = dump(messages)
    chunks = split(messages, room)
    archive_id, _ = await store.archives.add(
        NewArchive(
            id=str(uuid4()),
            raw_sha256=hash_of(raw),
            source=source,
            conversation_id=talk,
            title="A talk",
            messages=raw,
            messages_count=len(messages),
            characters=sum(len(one.content) for one in messages),
            chunks_total=len(chunks),
            plan=write_plan(chunks, 500),
            quick_summary="In short.",
            schema_version=SCHEMA_VERSION,
            search_text=search_text("A talk", "In short.", messages),
            terms=stored_terms("A talk", messages),
        ),
        None,
    )
    return archive_id
