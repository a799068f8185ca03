"""`/api/keys`: keys of people and programs. For administrators only, as `permission` says."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from common.logs import get_logger
from common.security import digest_of, new_key
from master.api.schemas import CreateKey
from master.services import Master
from master.state.access import AccessKey

router = APIRouter(prefix="/api/keys", tags=["keys"])
_log = get_logger(__name__)


def _shown(key: AccessKey) -> dict[str, Any]:
    return {"name": key.name, "role": key.role, "created_at": key.created_at.isoformat()}


@router.get("")
async def list_keys(master: Master) -> dict[str, Any]:
    return {"keys": [_shown(one) for one in await master.store.access.keys()]}


@router.post("", status_code=201)
async def create_key(body: CreateKey, master: Master) -> dict[str, Any]:
    """Make a key. It is in this answer and nowhere else: only its digest is kept."""
    key = new_key()
    kept = await master.store.access.add_key(body.name, digest_of(key), body.role)
    master.keyring.forget()
    _log.info("key created", name=kept.name, role=kept.role)
    return {**_shown(kept), "key": key}


@router.delete("/{name}", status_code=204)
async def revoke_key(name: str, master: Master) -> None:
    """Make a key worthless at once, also in browsers that are logged in with it."""
    await master.store.access.remove_key(name)
    master.keyring.forget()
    _log.info("key revoked", name=name)
