"""Archives: keep a conversation, find it again, see what was made of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator

from common.errors import InvalidRequestError
from master.api.guard import IMPORT_PATH
from master.api.schemas import Words
from master.knowledge.export import as_json, as_markdown
from master.knowledge.importing.service import Importer
from master.knowledge.messages import Said, said
from master.services import Master
from master.state.archive_records import Archive

MOST_MESSAGES = 10_000
router = APIRouter(tags=["archives"])
StatusName = Literal["stored", "queued", "running", "structured", "failed"]
SourceName = Literal["session", "conversation", "messages", "jsonl", "open_webui", "chatgpt"]


class ArchivedMessage(BaseModel, frozen=True, extra="forbid"):
    role: Literal["user", "assistant", "system", "tool"]
    content: Words


class ArchiveConversation(BaseModel, frozen=True, extra="forbid"):
    """`POST /api/conversation/archive/background`: one of the three, or none for the latest conversation."""

    conversation_id: UUID | None = None
    session_id: UUID | None = None
    messages: list[ArchivedMessage] | None = Field(None, min_length=1, max_length=MOST_MESSAGES)
    title: Annotated[Words, StringConstraints(strip_whitespace=True, max_length=200)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> ArchiveConversation:
        given = (self.conversation_id, self.session_id, self.messages)
        if sum(one is not None for one in given) > 1:
            raise ValueError("give one of `conversation_id`, `session_id` and `messages`")
        return self

    @field_validator("messages")
    @classmethod
    def _has_words(cls, value: list[ArchivedMessage] | None) -> list[ArchivedMessage] | None:
        if value is not None and not any(one.content.strip() for one in value):
            raise ValueError("no message has a word")
        return value

    @property
    def said(self) -> tuple[Said, ...]:
        return said((one.role, one.content) for one in self.messages or ())


@router.post("/api/conversation/archive/background", status_code=202, responses={200: {}})
async def archive_in_background(
    master: Master, response: Response, body: ArchiveConversation | None = None
) -> dict[str, Any]:
    """Keep a conversation, tell a quick summary, and queue what is to be made of it.

    202 with the archive; 200 where the same words were archived and structured before.
    """
    asked = body or ArchiveConversation()
    if asked.session_id is not None:
        archive, created = await master.archives.archive_session(str(asked.session_id), asked.title)
    elif asked.conversation_id is not None:
        archive, created = await master.archives.archive_conversation(str(asked.conversation_id), asked.title)
    elif asked.messages is not None:
        archive, created = await master.archives.archive_messages(asked.said, asked.title)
    else:
        archive, created = await master.archives.archive_latest(asked.title)
    shown = archive.summary
    if shown.status == "structured":
        response.status_code = 200
    response.headers["Location"] = f"/api/structured_archive/{shown.id}"
    return {**_kept(archive), "created": created}


def _kept(archive: Archive) -> dict[str, Any]:
    shown = archive.summary
    return {
        "archive_id": shown.id,
        "status": shown.status,
        "title": shown.title,
        "quick_summary": shown.quick_summary,
        "quick_summary_by": shown.quick_summary_by,
        "job_id": shown.job_id,
    }


@router.post(
    IMPORT_PATH,
    openapi_extra={"requestBody": {"content": {"application/json": {}, "application/x-ndjson": {}}}},
)
async def import_conversations(request: Request, master: Master, dry_run: bool = False) -> dict[str, Any]:
    """Archive the conversations of a file: JSON lines, an export of Open WebUI or of ChatGPT, told apart by
    their records. The file is the body; it is read as it comes.
    """
    report = await Importer(master.archives, dry_run=dry_run).run(request.stream())
    return report.to_json()


@router.get("/api/structured_archives")
async def list_archives(
    master: Master,
    q: Annotated[str | None, Query(max_length=200)] = None,
    status: StatusName | None = None,
    source: SourceName | None = None,
    conversation_id: UUID | None = None,
    practice: bool | None = None,
    superseded: bool = False,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Newest first; `q` searches conversations and what was made of them for every word, in any alphabet."""
    archives, next_cursor = await master.store.archives.list(
        q=q,
        status=status,
        source=source,
        conversation_id=str(conversation_id) if conversation_id else None,
        practice=practice,
        superseded=superseded,
        limit=limit,
        cursor=cursor,
    )
    return {"archives": archives, "next_cursor": next_cursor}


@router.get("/api/structured_archives/statistics")
async def statistics(master: Master) -> dict[str, Any]:
    """How many archives there are, by status and by source, and what they hold and cost."""
    return asdict(await master.store.archives.statistics())


@router.get("/api/structured_archive/{archive_id}")
async def show_archive(archive_id: UUID, master: Master, messages: bool = False) -> dict[str, Any]:
    """One archive with what was made of it and the archives that speak of the same; `messages=true` adds
    the conversation itself.
    """
    archive = await master.store.archives.get(str(archive_id))
    related = [
        {"id": one.archive_id, "title": title, "score": one.score, "shared_terms": list(one.terms)}
        for one, title in await master.store.archives.related(str(archive_id))
    ]
    shown = as_json(archive, with_messages=messages)
    return {**shown, "markdown": as_markdown(archive, with_messages=False), "related": related}


@router.post("/api/structured_archive/{archive_id}/retry", status_code=202)
async def retry_archive(archive_id: UUID, master: Master) -> dict[str, Any]:
    """Structure it (anew): one that failed goes on where it broke off; one that is structured is made from
    its first message on, by the background model of now, and shows what it has until then. 409 while its
    job is still to come.
    """
    return _kept(await master.archives.retry(str(archive_id)))


@router.delete("/api/structured_archive/{archive_id}", status_code=204)
async def delete_archive(archive_id: UUID, master: Master) -> None:
    """Delete an archive for good; its job is cancelled."""
    await master.archives.delete(str(archive_id))


@router.get("/api/structured_archive/{archive_id}/export")
async def export_archive(archive_id: UUID, master: Master, format: str = "md") -> Response:
    """The whole archive with its conversation, as Markdown or JSON."""
    archive = await master.store.archives.get(str(archive_id))
    name = f"archive-{archive_id}.{format}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if format == "md":
        text = as_markdown(archive, with_messages=True)
        return PlainTextResponse(text, media_type="text/markdown", headers=headers)
    if format == "json":
        return JSONResponse(as_json(archive, with_messages=True), headers=headers)
    raise InvalidRequestError(f"no export as {format!r}; there are md and json")
