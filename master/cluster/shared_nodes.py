"""Nodes that another master was told of: known here too, and forgotten here too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from common.errors import ConflictError, CouncilError
from common.logs import get_logger
from master.cluster.registry import Registry
from master.state.nodes import StoredNode
from master.whereabouts import is_nowhere, nowhere, tells_its_address

_log = get_logger(__name__)


class SharedNodes:
    """Holds the registry to the database; nodes of the settings and the local one are left alone."""

    def __init__(self, registry: Registry, on_drained: Callable[[], None]) -> None:
        self._registry = registry
        self._on_drained = on_drained
        self._known: dict[str, StoredNode] = {}
        self._missing: set[str] = set()

    def start_with(self, stored: Sequence[StoredNode]) -> None:
        """Know these from the start. One that cannot be used is skipped, and logged."""
        for node in stored:
            self._add(node)

    async def follow(self, stored: Sequence[StoredNode]) -> None:
        """Take in what the database says now."""
        named = {node.name: node for node in stored}
        for name in [name for name in self._known if name not in named]:
            del self._known[name]
            here = self._registry.nodes.get(name)
            if here is not None and not here.leaving:
                await self._registry.remove(name)
                _log.info("node forgotten, as another master did", node=name)
        await self._forget_unseen(named)
        for name, node in named.items():
            before = self._known.get(name)
            if before is None:
                self._add(node)
            elif before != node:
                await self._change(before, node)

    async def _forget_unseen(self, named: Mapping[str, StoredNode]) -> None:
        """Forget what was added here and removed elsewhere between two looks at the database.

        One that is missing once may have been added while this look was under way.
        """
        missing = {
            name
            for name, node in self._registry.nodes.items()
            if node.stored and not node.leaving and name not in named
        }
        for name in missing & self._missing:
            await self._registry.remove(name)
            _log.info("node forgotten, as another master did", node=name)
        self._missing = missing

    def _add(self, node: StoredNode) -> None:
        self._known[node.name] = node
        if node.name in self._registry.nodes:
            return
        try:
            added = self._registry.add(node.url, name=node.name, key=node.key, fingerprint=node.fingerprint)
            added.draining, added.mac = node.draining, node.mac
        except ConflictError as error:
            # It is a member all the same, or its next word would be refused and it would leave the cluster.
            if tells_its_address(node.key, node.fingerprint) and not is_nowhere(node.url):
                _log.warning("stored node has no address here", node=node.name, reason=error.detail)
                self._add(replace(node, url=nowhere(node.url, node.name)))
                self._known[node.name] = node
            else:
                _log.warning("stored node skipped", node=node.name, reason=error.detail)
        except CouncilError as error:
            _log.warning("stored node skipped", node=node.name, reason=error.detail)

    async def _change(self, before: StoredNode, node: StoredNode) -> None:
        self._known[node.name] = node
        here = self._registry.nodes.get(node.name)
        if here is None:  # it is being removed here
            return
        if (here.client.url, here.client.key) != (node.url, node.key) and (
            (before.url, before.key, before.fingerprint) != (node.url, node.key, node.fingerprint)
        ):
            if not here.joined or (here.client.key, None) != (node.key, node.fingerprint):
                await self._registry.remove(node.name)
                self._add(node)
                return
            try:
                await self._registry.move(node.name, node.url)
            except ConflictError as error:
                _log.warning("node not moved here", node=node.name, reason=error.detail)
        here.mac = node.mac
        if here.draining != node.draining:
            here.draining = node.draining
            self._on_drained()
