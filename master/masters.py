"""Several masters on one database: who has a session, and how what is asked here gets there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from common import __version__
from common.errors import CouncilError, NodeDrainingError, from_problem
from common.http_client import make_client
from common.logs import get_logger
from common.security import bearer, keys_match
from common.tls import MASTER_NAME, Trust
from master.cluster.shared_nodes import SharedNodes
from master.council.events import EventLog
from master.council.service import CouncilService
from master.state.store import Store

if TYPE_CHECKING:
    from master.state.presence import Peer, Presence

_HOP = "x-council-hop"
_LOOK_AFTER_EVERY_S = 1.0
_FIND_WITHIN_S = 15.0
_FIND_EVERY_S = 0.2
_QUIET_S = 60.0  # a peer writes a comment every 15 s
TRANSPORT_ERRORS = (httpx.HTTPError, httpx.StreamError, OSError)
_log = get_logger(__name__)


class Masters:
    """This master among others. With SQLite it is alone: `presence` is `None`, and nothing here costs."""

    def __init__(
        self,
        *,
        store: Store,
        council: CouncilService,
        presence: Presence | None,
        nodes: SharedNodes,
        authority: str | None,
        connect_timeout_s: float,
    ) -> None:
        self.presence = presence
        self._store = store
        self._council = council
        self._nodes = nodes
        self._authority = authority
        self._connect_timeout_s = min(connect_timeout_s, 3.0)
        self._clients: dict[str, httpx.AsyncClient] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take over what dead masters leave, and know the nodes that others were told of."""
        if self.presence is None:
            yield
            return
        task = asyncio.create_task(self._look_after(), name="masters")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for client in self._clients.values():
                await client.aclose()

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AFTER_EVERY_S)
            try:
                await self._council.take_over()
                await self._nodes.follow(await self._store.nodes.list())
            except CouncilError as error:
                _log.warning("other masters' work was not looked after", code=error.code, detail=error.detail)
            except Exception:
                _log.exception("other masters' work was not looked after")

    def describe(self, name: str) -> list[dict[str, Any]]:
        """This master, called `name`, and the others that live."""
        presence = self.presence
        here = {"id": None, "name": name, "url": None, "version": __version__, "leader": True, "here": True}
        if presence is None:
            return [here]
        here |= {"id": presence.id, "url": presence.url or None, "leader": presence.is_leader}
        others = [
            {
                "id": one.id,
                "name": one.name,
                "url": one.url or None,
                "version": one.version,
                "leader": one.is_leader,
                "here": False,
            }
            for one in presence.peers.values()
        ]
        return [here, *others]

    # -- who has a session --------------------------------------------------------------------------------

    async def owner(self, session_id: str) -> Peer | None:
        """The living master that runs a session or ran it last; `None`: it is answered here.

        Waits while a dead master's session has not been taken over. Raises `NotFoundError`, and
        `NodeDrainingError` when nobody takes it.
        """
        if self.presence is None:
            return None
        deadline = time.monotonic() + _FIND_WITHIN_S
        while True:
            if self._council.runner(session_id) is not None:
                return None
            owner, over = await self._store.sessions.owner_of(session_id)
            peer = self.presence.peers.get(owner or "")
            if peer is not None and peer.url:
                return peer
            if over:
                return None
            if time.monotonic() >= deadline:
                raise _nobody(peer)
            await asyncio.sleep(_FIND_EVERY_S)

    def client(self, peer: Peer) -> httpx.AsyncClient:
        """Requests to another master, in the name of the cluster."""
        assert self.presence is not None, "there are peers"
        found = self._clients.get(peer.url)
        if found is None:
            trust = Trust.of_authority(self._authority, MASTER_NAME) if self._authority else None
            found = self._clients[peer.url] = make_client(
                peer.url,
                connect_timeout_s=self._connect_timeout_s,
                read_timeout_s=_QUIET_S,
                headers={"authorization": f"Bearer {self.presence.cluster_key}", _HOP: self.presence.id},
                trust=trust if peer.url.startswith("https:") else None,
            )
        return found

    def has_passed_on(self, headers: Mapping[str, str]) -> bool:
        """Whether another master sent this request on: then it is answered here, whatever happens.

        Anybody can write the header that says so; the key that the masters share is theirs alone.
        """
        if self.presence is None or _HOP not in headers:
            return False
        return keys_match(bearer(headers.get("authorization")), self.presence.cluster_key)

    # -- events -------------------------------------------------------------------------------------------

    async def is_past_end(self, session_id: str, after: int, *, here: bool = False) -> bool:
        """Whether a watcher that saw `after` has seen all there will be. Raises `NotFoundError`."""
        peer = None if here else await self.owner(session_id)
        if peer is None:
            return (await self._log_of(session_id)).is_past_end(after)
        with contextlib.suppress(*TRANSPORT_ERRORS):
            async with self._events(peer, session_id, after) as response:
                return response.status_code == 204
        return False

    async def watch(
        self, session_id: str, after: int, *, here: bool = False
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Events after a number to the end of the session, wherever it runs, and through its master's death.

        `here`: another master asks on behalf of its watcher. Raises what `EventLog.watch` raises.
        """
        position = after
        deadline = time.monotonic() + _FIND_WITHIN_S
        while True:
            peer = None if here else await self.owner(session_id)
            if peer is None:
                log = await self._log_of(session_id)
                try:
                    async for seq, data in log.watch(position):
                        position = seq
                        yield seq, data
                        deadline = time.monotonic() + _FIND_WITHIN_S
                    return
                except NodeDrainingError:
                    if here or self._council.is_stopping or self.presence is None:
                        raise
                    continue  # another master has it now
            try:
                async with self._events(peer, session_id, position) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code != 200 and response.status_code != 503:
                        await response.aread()
                        raise from_problem(response.json())
                    async for seq, data in _events_of(response):
                        position = seq
                        yield seq, data
                        deadline = time.monotonic() + _FIND_WITHIN_S
            except TRANSPORT_ERRORS as error:
                _log.info("a session is looked for again", session_id=session_id, reason=str(error))
            if time.monotonic() >= deadline:
                raise _nobody(peer)
            await asyncio.sleep(_FIND_EVERY_S)

    @asynccontextmanager
    async def _events(self, peer: Peer, session_id: str, after: int) -> AsyncIterator[httpx.Response]:
        headers = {"accept": "text/event-stream", "last-event-id": str(after)}
        address = f"/api/council/sessions/{session_id}/events"
        async with self.client(peer).stream("GET", address, headers=headers) as response:
            yield response

    async def _log_of(self, session_id: str) -> EventLog:
        """The session's log; for one that is no longer held, a log that opens with its snapshot and ends."""
        runner = self._council.runner(session_id)
        if runner is not None:
            return runner.log
        if self.presence is not None and not (await self._store.sessions.owner_of(session_id))[1]:
            raise _nobody(None)  # it runs, and not here
        session = await self._council.get(session_id)
        stored = {"session": session.model_dump(mode="json"), "partial": {}}
        log = EventLog(
            session_id,
            head=await self._council.stored_head(session_id),
            snapshot=lambda: stored,
            on_low=lambda: None,
        )
        log.end()
        return log


def _nobody(peer: Peer | None) -> NodeDrainingError:
    """Why a session that has not ended cannot be reached."""
    if peer is not None and not peer.url:
        return NodeDrainingError(
            f"the master {peer.name} runs this session and listens to its own machine only; ask it there, or "
            "give it COUNCIL_PEER_URL"
        )
    return NodeDrainingError("no master has this session just now; ask again", retry_after_s=2.0)


async def _events_of(response: httpx.Response) -> AsyncIterator[tuple[int, bytes]]:
    """What our own server-sent events say, as (seq, JSON)."""
    seq, buffer = 0, b""
    async for chunk in response.aiter_raw():
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"id: "):
                seq = int(line[4:])
            elif line.startswith(b"data: "):
                yield seq, line[6:]
