"""The node's calls to its master: to join with a token, and to tell where it is now.

The master is known by its authority, whose fingerprint is in the token: nothing is sent to whoever shows
another certificate.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import httpx
import msgspec

from common.addresses import own_addresses
from common.errors import (
    CouncilError,
    NodeUnreachableError,
    SettingsError,
    UnauthorizedError,
    UntrustedPeerError,
    from_problem,
)
from common.http_client import make_client
from common.logs import get_logger
from common.no_answer import why_no_answer
from common.security import is_loopback
from common.tls import MASTER_NAME, ReplacedCertificate, Trust, explain, fingerprint_of, parse_fingerprint
from worker_node.membership import Belonging, Membership
from worker_node.whereabouts import Whereabouts

log = get_logger(__name__)
T = TypeVar("T")

_TIMEOUT_S = 15.0
_LOOK_EVERY_S = 1.0
_JITTER = (0.8, 1.2)
_TRANSPORT_ERRORS = (httpx.HTTPError, aiohttp.ClientError, OSError)


def master_url(text: str, *, insecure_lan: bool) -> str:
    """The master's address as it is used. Raises `SettingsError` for one that would send secrets in clear."""
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{text!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{text!r} is not the address of a master; it looks like https://PC1:8000")
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not insecure_lan:
        raise SettingsError(
            f"{url} would send the token and the node's key in the clear; use https://, or --insecure-lan on "
            "both sides in a network that you trust entirely"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or 8000}"


async def join(url: str, token: str, *, name: str, port: int, tls: bool) -> Membership:
    """Become a node of that master.

    Raises `UntrustedPeerError` (it is not the master that made the token), `UnauthorizedError` (the token is
    used up or too old), `ConflictError` (the name is taken), `SettingsError` and `NodeUnreachableError`.
    """
    secret, _, fingerprint = token.strip().partition(".")
    authority: str | None = None
    trust: Trust | None = None
    if url.startswith("https://"):
        if not fingerprint:
            raise SettingsError(
                "this token has no fingerprint, since its master speaks plain HTTP; make one on a master "
                "that serves the LAN over TLS"
            )
        authority = await _authority(url, parse_fingerprint(fingerprint).hex())
        trust = Trust.of_authority(authority, MASTER_NAME)
    private_key, request = await asyncio.to_thread(_new_request) if tls else (None, None)
    body = {"name": name, "port": port, "request": request}
    told = await _post(url, "/api/cluster/join", secret, body, trust)
    return Membership(
        name=str(told["name"]),
        key=str(told["key"]),
        master=url,
        private_key=private_key,
        certificate=told.get("certificate"),
        request=request,
        authority=authority,
    )


async def renew(one: Membership, port: int) -> tuple[Membership, dict[str, Any]]:
    """Tell the master where this node is; the membership with a new certificate, and what the master told.

    Raises `UnauthorizedError` when the master no longer knows this node.
    """
    if one.master is None:
        raise AssertionError("only a node that joined has a master to tell")
    trust = Trust.of_authority(one.authority, MASTER_NAME) if one.authority else None
    body = {"port": port, "request": one.request}
    told = await _post(one.master, "/api/cluster/renew", one.key, body, trust)
    if told.get("certificate"):
        one = msgspec.structs.replace(one, certificate=str(told["certificate"]))
    return one, told


async def stay_known(
    one: Membership, port: int, belonging: Belonging, shown: ReplacedCertificate | None
) -> None:
    """Tell the master at each start, each hour, and when it is not heard any more, until cancelled; take the
    new certificates into use.

    The master may be away for as long as it likes: it knows the node's last address, and calls.
    """
    whereabouts = Whereabouts()
    while True:
        try:
            addresses = await asyncio.to_thread(own_addresses)
            if whereabouts.is_due(time.monotonic(), belonging.heard_at, addresses):
                whereabouts.began(time.monotonic(), addresses, jitter=random.uniform(*_JITTER))
                one = await _tell(one, port, belonging, whereabouts, shown)
        except Exception:
            whereabouts.failed(time.monotonic())
            log.exception("telling the master failed", master=one.master)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _tell(
    one: Membership,
    port: int,
    belonging: Belonging,
    whereabouts: Whereabouts,
    shown: ReplacedCertificate | None,
) -> Membership:
    try:
        one, told = await renew(one, port)
        await belonging.go_on(one)
        if shown is not None:
            await asyncio.to_thread(shown.replace, one.chain)
        whereabouts.told(time.monotonic(), heartbeat_s=float(told.get("heartbeat_s") or 0.0))
        _say_how_it_is_seen(told)
    except UnauthorizedError as error:
        whereabouts.refused(time.monotonic())
        if belonging.ended is None:  # it is asked again and again, and says the same
            log.error("the master refuses this node", master=one.master, reason=error.detail)
        await belonging.end()
    except CouncilError as error:
        pause_s = round(whereabouts.failed(time.monotonic()), 1)
        log.warning("the master was not told", master=one.master, reason=error.detail, again_in_s=pause_s)
    return one


def _say_how_it_is_seen(told: dict[str, Any]) -> None:
    if told.get("state") in ("healthy", "degraded"):
        log.info("part of the cluster", as_node=told.get("name"), url=told.get("url"))
    else:
        log.warning(
            "the master cannot use this node yet; does a firewall here let its port in?",
            url=told.get("url"),
            state=told.get("state"),
            reason=told.get("error"),
        )


def _new_request() -> tuple[str, str]:
    from common.certificates import certificate_request, new_private_key

    key = new_private_key()
    return key, certificate_request(key)


async def _authority(url: str, fingerprint: str) -> str:
    """The authority's certificate of the master, once it is the one that the token means."""

    async def fetch(client: httpx.AsyncClient) -> str:
        response = await client.get("/health/authority")
        if response.status_code != 200:
            raise NodeUnreachableError(f"{url} answered {response.status_code} and is no master of a cluster")
        return response.text

    text = await _with_client(url, Trust.of_anybody(), None, fetch)
    try:
        found = fingerprint_of(text)
    except ValueError as error:
        raise NodeUnreachableError(f"{url} sent no certificate, and is no master of a cluster") from error
    if found != fingerprint:
        raise UntrustedPeerError(
            f"{url} is not the master that made this token: its authority has the fingerprint {found}, "
            f"and the token says {fingerprint}"
        )
    return text


async def _post(url: str, path: str, key: str, body: dict[str, Any], trust: Trust | None) -> dict[str, Any]:
    async def send(client: httpx.AsyncClient) -> dict[str, Any]:
        response = await client.post(path, json=body)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        if isinstance(answer, dict) and "code" in answer:
            raise from_problem(answer)
        raise NodeUnreachableError(f"{url} answered {response.status_code} and is no master of a cluster")

    return await _with_client(url, trust, key, send)


async def _with_client(
    url: str, trust: Trust | None, key: str | None, work: Callable[[httpx.AsyncClient], Awaitable[T]]
) -> T:
    """One conversation with the master; foreign errors become ours."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    client = make_client(
        url, connect_timeout_s=_TIMEOUT_S, read_timeout_s=_TIMEOUT_S, headers=headers, trust=trust
    )
    try:
        return await work(client)
    except _TRANSPORT_ERRORS as error:
        reason = explain(error)
        if reason is not None:
            raise UntrustedPeerError(f"what answers at {url} is not this node's master: {reason}") from error
        raise NodeUnreachableError(
            f"no master answers at {url} ({why_no_answer(error)}); is it started there with --host 0.0.0.0?"
        ) from error
    finally:
        await client.aclose()
