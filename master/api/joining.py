"""How nodes join: tokens for administrators to give away, and what a node sends with one.

`permission` asks for an administrator's key, a living token, or a node's key, before anything here runs.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from common.addresses import UNSPECIFIED, lan_addresses, url_for_others
from common.errors import ConflictError, InvalidRequestError, NotFoundError, UnauthorizedError
from common.logs import get_logger
from common.security import bearer, is_loopback, new_key
from common.tls import short_fingerprint
from master.api import permission
from master.api.schemas import CreateToken, Join, Renew
from master.cluster.registry import default_name
from master.keyring import token_digest
from master.services import Master, Services
from master.whereabouts import NODE_KEY

router = APIRouter(tags=["cluster"])
_log = get_logger(__name__)


@router.get(permission.AUTHORITY, response_class=Response)
async def authority(master: Master) -> Response:
    """The certificate of the cluster's authority (PEM): public, and worth nothing without its fingerprint."""
    if master.authority is None:
        raise NotFoundError("this master speaks plain HTTP and has no certificate authority")
    return Response(master.authority.certificate, media_type="application/x-pem-file")


@router.post("/api/cluster/tokens", status_code=201)
async def create_token(body: CreateToken, request: Request, master: Master) -> dict[str, Any]:
    """A token with which one node may join once, and the command to type on that PC."""
    secret = new_key("lct")
    ends = await master.store.access.add_token(token_digest(secret), timedelta(seconds=body.ttl_s))
    token = secret
    if master.authority is not None:
        token = f"{secret}.{short_fingerprint(master.authority.fingerprint)}"
    url, *others = await asyncio.to_thread(_own_urls, request, master)
    return {
        "token": token,
        "expires_at": ends.isoformat(),
        "expires_in_s": body.ttl_s,
        "url": url,
        "other_urls": others,
        "command": f"council node start --join {url} --token {token}",
        "loopback_only": is_loopback(master.settings.host),
    }


@router.post(permission.JOIN, status_code=201)
async def join(body: Join, request: Request, master: Master) -> dict[str, Any]:
    """Take a node in: it gets a key of its own, and a certificate for the request that it sent."""
    token = bearer(request.headers.get("authorization")) or ""
    url = _node_url(request, body.port, "http" if body.request is None else "https")
    _check_wire(master, request, body.request)
    name = body.name or default_name(url)
    _check_name(master, name, url)
    master.registry.check_name(name)
    certificate = _sign(master, body.request, name)
    key = new_key(NODE_KEY)
    await master.store.access.join(token_digest(token), name=name, url=url, key=key)
    await _make_way(master, name, url)
    master.registry.add(url, name=name, key=key)
    _log.info("node joined", node=name, url=url)
    return {
        "name": name,
        "key": key,
        "master": master.settings.name,
        "certificate": certificate,
        "authority": master.authority.certificate if master.authority else None,
    }


@router.post(permission.RENEW)
async def renew(body: Renew, request: Request, master: Master) -> dict[str, Any]:
    """A node that joined tells where it is now; its new certificate, and how the master sees it."""
    name = master.keyring.node_of(bearer(request.headers.get("authorization")) or "")
    if name is None:  # removed since the guard let the call in
        raise UnauthorizedError("this node is no longer part of the cluster")
    node = master.registry.get(name)
    url = _node_url(request, body.port, node.client.url.partition(":")[0])
    if url != node.client.url:
        master.registry.check_move(name, url)
        await master.store.access.move_node(name, url)
        await master.registry.move(name, url)
        _log.info("node moved", node=name, url=url)
    node = master.registry.get(name)
    await master.registry.refresh(node)
    return {
        "name": name,
        "certificate": _sign(master, body.request, name),
        "url": url,
        "state": node.state,
        "error": node.error,
        "heartbeat_s": master.settings.heartbeat_s,
    }


def _sign(master: Services, request: str | None, name: str) -> str | None:
    if request is None or master.authority is None:
        return None
    return master.authority.sign_node(request, name)


def _check_wire(master: Services, request: Request, certificate_request: str | None) -> None:
    peer = request.client.host if request.client else ""
    if certificate_request is not None and master.authority is None:
        raise InvalidRequestError(
            "this master has no certificate authority, since it speaks plain HTTP; start the master without "
            "--insecure-lan, or the node with it"
        )
    if certificate_request is None and master.authority is not None and not is_loopback(peer):
        raise InvalidRequestError("nodes of this cluster speak TLS; start the node without --insecure-lan")


def _check_name(master: Services, name: str, url: str) -> None:
    """Raise `ConflictError` when the newcomer's name is that of a node elsewhere."""
    known = master.registry.nodes.get(name)
    if known is not None and known.client.url != url:
        where = "without an address" if known.is_nowhere else f"at {known.client.url}"
        raise ConflictError(
            f"a node named {name} is known {where}; start this one with another --name, or remove that one: "
            f"council worker remove {name}"
        )


async def _make_way(master: Services, name: str, url: str) -> None:
    """What `AccessRepository.join` did with who was at the newcomer's address, here."""
    holder = master.registry.at(url)
    if holder is None:
        return
    if holder.joined and holder.name != name:
        await master.registry.lose(holder)
    else:
        await master.registry.remove(holder.name)


def _node_url(request: Request, port: int, scheme: str) -> str:
    """Where the caller is reached: the address it calls from, with the port it tells."""
    host = request.client.host if request.client else "127.0.0.1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _own_urls(request: Request, master: Services) -> list[str]:
    """This master as a node reaches it: by the name that the administrator used, if others can use it too,
    else by each of its addresses, the likeliest first.
    """
    used, host = request.url, master.settings.host
    if used.hostname and not is_loopback(used.hostname):
        return [f"{used.scheme}://{used.netloc}"]
    port = used.port or (443 if used.scheme == "https" else 80)
    addresses = lan_addresses() if host in UNSPECIFIED else []
    return [url_for_others(used.scheme, address, port) for address in addresses or [host]]
