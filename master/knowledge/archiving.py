"""Archives as a service: keeps a conversation first, tells a quick summary, queues the job for the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from common.errors import ConflictError, CouncilError, NotFoundError
from common.logs import get_logger
from common.master_settings import MasterSettings
from master.background.candidates import DEFAULT_BACKGROUND_MODEL
from master.background.jobs import JobService
from master.background.types.summarise import SUMMARISE, SummariseInput
from master.cluster import model_names
from master.cluster.calls import Call, SilentWatcher
from master.cluster.dispatch import Dispatcher
from master.cluster.registry import Registry
from master.council.budget import count_bytes, estimate_tokens
from master.council.service import CouncilService
from master.council.view import CouncilSession
from master.knowledge import prompts, quick, session_text
from master.knowledge.messages import Conversation, Said, load
from master.knowledge.preparing import Slot, plan_for, prepare
from master.state.archive_records import Archive, NewArchive, Status
from master.state.store import Store

_QUICK_ROOM = 1500  # tokens of the conversation that a quick summary reads
_QUICK_ANSWER = 160
_log = get_logger(__name__)


class ArchiveService:
    """Every way in ends with a stored archive and its queued job."""

    def __init__(
        self,
        *,
        settings: MasterSettings,
        store: Store,
        registry: Registry,
        dispatcher: Dispatcher,
        council: CouncilService,
        jobs: JobService,
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._dispatcher = dispatcher
        self._council = council
        self._jobs = jobs

    # -- archiving ----------------------------------------------------------------------------------------

    async def archive_session(self, session_id: str, title: str | None = None) -> tuple[Archive, bool]:
        """Archive one session: (the archive, whether it is new).

        Raises `NotFoundError`, and `ConflictError` where it runs or has no answer.
        """
        session = await self._council.get(session_id)
        if session.state not in session_text.ENDED:
            raise ConflictError("the session still runs; archive it when it has ended")
        return await self._archive_sessions([session], "session", title)

    async def archive_conversation(
        self, conversation_id: str, title: str | None = None
    ) -> tuple[Archive, bool]:
        """Archive all sessions of a conversation that have an answer, in order. Raises as above."""
        found = await self._store.sessions.conversation(conversation_id)
        ended = [one.id for one in found.sessions if one.state in session_text.ENDED]
        if not ended:
            raise ConflictError("no session of this conversation has ended yet; archive it when one has")
        sessions = [await self._council.get(one) for one in ended]
        return await self._archive_sessions(sessions, "conversation", title or found.title)

    async def archive_latest(self, title: str | None = None) -> tuple[Archive, bool]:
        """Archive the conversation that was used last. Raises `NotFoundError` where there is none."""
        conversations, _ = await self._store.sessions.conversations(limit=20)
        for one in conversations:
            try:
                return await self.archive_conversation(one.id, title)
            except (ConflictError, NotFoundError):
                continue
        raise NotFoundError(
            "there is no conversation with an answer yet; ask the council first, or send `messages`"
        )

    async def archive_messages(
        self, messages: Sequence[Said], title: str | None = None
    ) -> tuple[Archive, bool]:
        """Archive a conversation that was held elsewhere."""
        return await self._keep_and_tell(Conversation(tuple(messages), title))

    async def _archive_sessions(
        self, sessions: Sequence[CouncilSession], source: str, title: str | None
    ) -> tuple[Archive, bool]:
        answered = [(one, session_text.messages_of(one)) for one in sessions]
        messages = tuple(said for _, found in answered for said in found)
        if not messages:
            raise ConflictError("there is no answer to archive: no session of it ended with one")
        kept = [one for one, found in answered if found]
        began = kept[0].created_at.timestamp()
        return await self._keep_and_tell(Conversation(messages, title, source, occurred_at=began), kept)

    async def _keep_and_tell(
        self, conversation: Conversation, sessions: Sequence[CouncilSession] = ()
    ) -> tuple[Archive, bool]:
        new = await asyncio.to_thread(prepare, conversation, self.slot(), sessions)
        archive_id, created = await self.keep(new)
        if created:
            summary = await self._quick_summary(new, conversation.messages)
            if summary is not None:
                text, model = summary
                await self._store.archives.set_quick_summary(archive_id, text, model)
        return await self._store.archives.get(archive_id), created

    async def knows(self, raw_sha256: str) -> bool:
        """Whether these words are archived already."""
        return await self._store.archives.by_hash(raw_sha256) is not None

    async def keep(self, new: NewArchive) -> tuple[str, bool]:
        """Store a conversation and queue its job, in one transaction: (archive id, whether it is new).

        One that is known keeps its archive; where that failed, or never had a job, it gets one.
        """
        archive_id, created = await self._store.archives.add(new, lambda db: self._add_job(db, new.id))
        if created:
            self._jobs.wake()
        else:
            await self.try_again(archive_id)
        return archive_id, created

    async def retry(self, archive_id: str) -> Archive:
        """Structure an archive (anew): one that failed goes on where it broke off.

        Raises `NotFoundError`, and `ConflictError` while its job is still to come.
        """
        stands = await self._store.archives.summary(archive_id)
        if stands.status in (Status.QUEUED, Status.RUNNING):
            raise ConflictError(f"archive {archive_id} is {stands.status} already, in job {stands.job_id}")
        if stands.status == Status.STRUCTURED:
            await self._make_anew(await self._store.archives.get(archive_id))
        else:
            await self.try_again(archive_id)
        return await self._store.archives.get(archive_id)

    async def _make_anew(self, archive: Archive) -> None:
        archive_id = archive.summary.id
        plan = await asyncio.to_thread(lambda: plan_for(load(archive.messages), self.slot()))
        await self._store.archives.reopen(
            archive_id, plan, len(plan["chunks"]), lambda db: self._add_job(db, archive_id, fresh=True)
        )
        self._jobs.wake()

    async def try_again(self, archive_id: str) -> None:
        """Give an archive its job where it has none, or another run of the one that failed.

        One that only practice models have read is read anew when others are there.
        """
        stands = await self._store.archives.summary(archive_id)
        if stands.status == Status.FAILED and stands.job_id is not None:
            with contextlib.suppress(ConflictError, NotFoundError):
                await self._jobs.retry(stands.job_id)
        elif stands.status == Status.STORED:
            await self._store.archives.requeue(archive_id, lambda db: self._add_job(db, archive_id))
            self._jobs.wake()
        elif stands.practice and not stands.items_count and stands.status == Status.STRUCTURED:
            archive = await self._store.archives.get(archive_id)
            told_by_practice = any(note.get("practice") for note in archive.notes)
            if not told_by_practice and not self.slot().practice:
                with contextlib.suppress(ConflictError):
                    await self._make_anew(archive)

    async def queue_stored(self) -> int:
        """Queue a job for every archive that is only stored; returns how many."""
        waiting = await self._store.archives.without_job()
        for archive_id in waiting:
            await self.try_again(archive_id)
        return len(waiting)

    async def _add_job(self, db: Any, archive_id: str, *, fresh: bool = False) -> str:
        given = SummariseInput(archive_id=archive_id, fresh=fresh)
        job = self._jobs.catalogue.new(SUMMARISE.name, given, key=f"{SUMMARISE.name}/{archive_id}")
        return (await self._store.jobs.add(db, job)).id

    # -- the models ---------------------------------------------------------------------------------------

    def slot(self) -> Slot:
        """The smallest slot that a background call may meet now."""
        models = [model for node in self._registry.nodes.values() for model in node.models if node.answers]
        wanted = self._settings.ollama_background_model or DEFAULT_BACKGROUND_MODEL
        able = [one for one in models if not one.capabilities or "completion" in one.capabilities]
        named = model_names.find(wanted, (one.name for one in able))
        chosen = [one for one in able if one.name == named] or [one for one in able if not one.practice]
        chosen = chosen or able
        if not chosen:
            return Slot()
        practice = any(one.practice for one in chosen)
        measure = count_bytes if practice else estimate_tokens
        return Slot(min(one.context_length for one in chosen), measure, practice)

    def _quick_model(self) -> tuple[str, int] | None:
        """The model that answers soonest, with its context: the background model, else a small loaded one."""
        models = [
            model
            for node in self._registry.nodes.values()
            if node.answers and not node.draining
            for model in node.models
            if not model.practice and (not model.capabilities or "completion" in model.capabilities)
        ]
        if not models:
            return None
        wanted = self._settings.ollama_background_model or DEFAULT_BACKGROUND_MODEL
        named = model_names.find(wanted, (one.name for one in models))
        first = min(models, key=lambda one: (one.name != named, not one.resident, one.size, one.name))
        return first.name, first.context_length

    async def _quick_summary(self, new: NewArchive, messages: Sequence[Said]) -> tuple[str, str] | None:
        """Two sentences of a model, and its name; `None` where none answers well within its time."""
        chosen = self._quick_model()
        if chosen is None:
            return None
        model, context = chosen
        room = min(_QUICK_ROOM, context - _QUICK_ANSWER - prompts.INSTRUCTION_TOKENS)
        call = Call(
            call_id=f"quick-{new.id}",
            model=model,
            messages=prompts.quick_summary(new.raw_sha256, messages, max(room, 64)),
            options={"temperature": 0.1, "num_predict": _QUICK_ANSWER},
            think=False,
            expected_tokens=60,
        )
        try:
            async with asyncio.timeout(self._settings.quick_summary_timeout_s):
                answer = await self._dispatcher.run(call, SilentWatcher())
        except (CouncilError, TimeoutError) as error:
            _log.info("no quick summary", archive_id=new.id, model=model, reason=str(error) or "timeout")
            return None
        text = quick.usable(answer.text, messages)
        return None if text is None else (text, answer.model or model)

    # -- forgetting ---------------------------------------------------------------------------------------

    async def delete(self, archive_id: str) -> None:
        """Forget an archive for good; its job is cancelled. Raises `NotFoundError`."""
        job_id = await self._store.archives.delete(archive_id)
        if job_id is not None:
            # One that has ended already, or was forgotten, is what is wanted.
            with contextlib.suppress(ConflictError, NotFoundError):
                await self._jobs.cancel(job_id)

    async def origin_deleted(
        self,
        *,
        session_id: str | None = None,
        conversation_id: str | None = None,
        with_archives: bool = False,
    ) -> int:
        """What becomes of the archives of something that is deleted: they stay with a mark, or go too.

        Returns how many there are.
        """
        found = await self._store.archives.holding(session_id=session_id, conversation_id=conversation_id)
        if with_archives:
            for one in found:
                await self.delete(one)
        else:
            await self._store.archives.mark_origin_deleted(found)
        return len(found)
