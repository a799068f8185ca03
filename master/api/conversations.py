"""`/api/conversations`: sessions that follow one another."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from master.services import Master

router = APIRouter(prefix="/api/conversations", tags=["conversations"])


@router.get("")
async def list_conversations(
    master: Master,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    conversations, next_cursor = await master.store.sessions.conversations(limit=limit, cursor=cursor)
    return {"conversations": conversations, "next_cursor": next_cursor}


@router.get("/{conversation_id}")
async def show_conversation(conversation_id: UUID, master: Master) -> Any:
    return await master.store.sessions.conversation(str(conversation_id))


@router.delete("/{conversation_id}", status_code=204)
async def delete_conversation(conversation_id: UUID, master: Master, with_archives: bool = False) -> None:
    """Delete a conversation with its sessions; a conversation with a running session is a 409.

    Its archives stay, and say that it is gone; `with_archives=true` deletes them too.
    """
    await master.council.delete_conversation(str(conversation_id))
    await master.archives.origin_deleted(conversation_id=str(conversation_id), with_archives=with_archives)
