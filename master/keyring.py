"""Who a key belongs to: people and programs, nodes of the cluster, and tokens of nodes that join."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Literal

from common.errors import CouncilError
from common.security import digest_of, keys_match
from master.cluster.registry import Registry
from master.state.access import AccessRepository, Role

# Another master on the same database may have revoked a key meanwhile.
_FRESH_S = 5.0
_now = time.perf_counter  # tells two reads apart on Windows too


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: `name` is the key's, `setting` for COUNCIL_KEY. A `master` has the key that the masters on
    one database share.
    """

    name: str
    role: Role | Literal["master"]


class KeyRing:
    """The keys in memory, read from the database when they may have changed."""

    def __init__(
        self,
        keys: AccessRepository,
        registry: Registry,
        *,
        admin_key: str | None,
        peer_key: str | None = None,
    ) -> None:
        """`peer_key`: with it other masters on the same database pass on what they have let in."""
        self._keys = keys
        self._registry = registry
        self._admin_key = admin_key
        self._peer_key = peer_key
        self._known: dict[str, Identity] = {}
        self._read_at = float("-inf")
        self._changes = 0
        self._changed = asyncio.Event()

    async def find(self, key: str) -> Identity | None:
        """Whose key this is. Raises storage errors."""
        if keys_match(key, self._admin_key):
            return Identity("setting", "admin")
        if keys_match(key, self._peer_key):
            return Identity("another master", "master")
        while _now() - self._read_at > _FRESH_S:
            began, changes = _now(), self._changes
            known = {one.digest: Identity(one.name, one.role) for one in await self._keys.keys()}
            if changes != self._changes:  # a key was made or revoked while the old ones were read
                continue
            if began > self._read_at:  # else somebody else's read is newer
                self._known, self._read_at = known, began
            break
        return self._known.get(digest_of(key))

    def forget(self) -> None:
        """Read the keys anew before the next call is let in."""
        self._changes += 1
        self._read_at = float("-inf")
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def revoked(self, key: str) -> None:
        """Return once the key is worthless: at once where it was revoked here, else within seconds."""
        while True:
            changed = self._changed
            with contextlib.suppress(CouncilError):  # a database that is away revokes nobody
                if await self.find(key) is None:
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FRESH_S):
                    await changed.wait()

    def node_of(self, key: str) -> str | None:
        """The node that was given this key when it joined."""
        found = None
        for node in self._registry.nodes.values():
            if keys_match(key, node.client.key):
                found = node.name
        return found

    async def token_lives(self, token: str) -> bool:
        return await self._keys.token_lives(token_digest(token))


def token_digest(token: str) -> str:
    """Under which a join token is kept; the fingerprint behind its dot is the node's to check."""
    return digest_of(token.partition(".")[0])
