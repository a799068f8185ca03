"""The nodes of the cluster: who they are, what they have, and how they are.

One task per node asks for health and models every `heartbeat_s`; what it learns is kept here and told to
whoever listens. A node that never answers stays listed: it may be asleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from common.errors import (
    ConflictError,
    CouncilError,
    InvalidRequestError,
    NodeUnreachableError,
    NotFoundError,
)
from common.logs import get_logger
from common.protocol import EngineName, Health
from common.security import host_name, is_loopback
from common.tls import Trust, node_name
from master.cluster import canary
from master.cluster.breaker import Breaker
from master.cluster.history import EVERY_S
from master.cluster.node import ENGINES, Node
from master.cluster.node_client import Inventory, NodeClient
from master.cluster.wake import learned_mac
from master.whereabouts import is_nowhere, nowhere, tells_its_address

__all__ = ["Node", "Registry"]

_EXPECTED = frozenset({"connecting", "healthy"})
_BACKGROUND = "background_engine"  # the check of a node's health that tells of it
_SECOND_SAMPLE_S = 1.0
_SAMPLE_TIMEOUT_S = 1.0  # the next heartbeat must not be late for it
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
_log = get_logger(__name__)


class Registry:
    """All nodes by name. `on_change` is called after each heartbeat that may let a waiting call run, and then
    the `listeners`.
    """

    def __init__(
        self,
        *,
        heartbeat_s: float,
        connect_timeout_s: float,
        authority: str | None = None,
        weights: Mapping[str, float] | None = None,
        insecure_lan: bool = False,
    ) -> None:
        """`insecure_lan`: nodes of other machines may be sent their keys without TLS."""
        self.nodes: dict[str, Node] = {}
        self._weights = dict(weights or {})
        self.on_change: Callable[[Node], None] = lambda _node: None
        self.listeners: list[Callable[[], object]] = []
        self.on_mac: Callable[[str, str], Awaitable[None]] = _ignore_mac
        # Told of each look at a node's machine, which is taken every `sample_every_s`.
        self.system_listeners: list[Callable[[Node, float, dict[str, Any]], None]] = []
        self.sample_every_s = EVERY_S
        self._heartbeat_s = heartbeat_s
        self._connect_timeout_s = connect_timeout_s
        self._insecure_lan = insecure_lan
        # One context for all nodes: the authority is the same, the name that is asked for differs.
        self._authority = ssl.create_default_context(cadata=authority) if authority else None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._expected: set[str] = set()
        self._settled = asyncio.Event()

    def expect(self, name: str) -> None:
        """A node of this name is being started here and will be added soon."""
        self._expected.add(name)

    @property
    def starting(self) -> list[str]:
        """The names of the nodes that are expected and have not been added yet."""
        return sorted(self._expected)

    async def settled(self, within_s: float) -> None:
        """Wait until every node that is known or expected has answered or failed once; at most so long."""
        try:
            async with asyncio.timeout(within_s):
                while self._expected or any(one.state == "connecting" for one in self.nodes.values()):
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return

    def add(
        self, url: str, *, name: str | None = None, key: str | None = None, fingerprint: str | None = None
    ) -> Node:
        """Know a node from now on; its heartbeat starts at once. Raises on a bad URL, a taken name, and a key
        that would travel in the clear.

        Over HTTPS a node shows the certificate of that `fingerprint`, or else one that the cluster's
        authority signed for its name.
        """
        checked = check_url(url)
        chosen = name or default_name(checked)
        self.check_name(chosen)
        if chosen in self.nodes:
            raise ConflictError(f"a node named {chosen} is known already; choose another --name")
        if self.at(checked) is not None:
            raise ConflictError(f"{checked} is known already")
        client = self._client(checked, chosen, key, fingerprint)
        self._expected.discard(chosen)
        node = Node(chosen, client, weight=self._weights.get(chosen, 1.0))
        node.joined = tells_its_address(key, fingerprint)
        self.nodes[chosen] = node
        self._start_watching(node)
        return node

    def at(self, url: str) -> Node | None:
        """The node that is known at this address."""
        return next((node for node in self.nodes.values() if node.client.url == url), None)

    @staticmethod
    def check_name(name: str) -> None:
        """Raise `InvalidRequestError` when a node may not be called so."""
        if not _NAME.match(name):
            raise InvalidRequestError(
                f"{name!r} is no name for a node: letters, digits, '.', '_' and '-', at most 63"
            )

    def check_move(self, name: str, url: str) -> None:
        """Raise `ConflictError` when a node that joined may not have this address: another one is there."""
        holder = self._holder(name, url)
        if holder is not None and holder.is_surely_there:
            raise ConflictError(f"{holder.name} answers at {url}")

    async def move(self, name: str, url: str) -> None:
        """A node that joined has another address now; calls that run there end, and who was there is nowhere.

        Raises `ConflictError`, and changes nothing, when that one does not tell its address itself, and
        `InvalidRequestError` where its key would travel in the clear.
        """
        node, holder = self.get(name), self._holder(name, url)
        if node.client.key is not None:
            self._check_wire(url)
        if holder is not None:
            await self.lose(holder)
        await self._settle(node, url)

    async def lose(self, node: Node) -> None:
        """Another node has the address of this one, which joined: it is known, and nowhere."""
        _log.warning("node lost its address to another", node=node.name, url=node.client.url)
        await self._settle(node, nowhere(node.client.url, node.name))

    def _holder(self, name: str, url: str) -> Node | None:
        holder = self.at(url)
        if holder is None or holder.name == name:
            return None
        if not holder.joined:
            raise ConflictError(
                f"{holder.name} was given the address {url} by hand or by COUNCIL_NODES; remove it there, if "
                f"{name} is at that address now"
            )
        return holder

    async def _settle(self, node: Node, url: str) -> None:
        """Reach a node elsewhere from now on; nothing is waited for before it is."""
        old, watching = node.client, self._tasks[node.name]
        node.client = self._client(url, node.name, old.key, None)
        node.state, node.error = "connecting", None
        node.breaker, node.background_breaker, node.model_breakers = Breaker(), Breaker(), {}
        self._start_watching(node)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await old.aclose()
        self._tell(node)

    def _start_watching(self, node: Node) -> None:
        self._tasks[node.name] = asyncio.create_task(self._watch(node), name=f"heartbeat {node.name}")

    def _client(self, url: str, name: str, key: str | None, fingerprint: str | None) -> NodeClient:
        if key is not None:
            self._check_wire(url)
        trust = self._trust(url, name, fingerprint)
        return NodeClient(name, url, key, connect_timeout_s=self._connect_timeout_s, trust=trust)

    def _check_wire(self, url: str) -> None:
        """Raise `InvalidRequestError` where a key would leave this machine without TLS."""
        parts = urlsplit(url)
        if parts.scheme != "http" or self._insecure_lan or is_nowhere(url):
            return
        if not is_loopback(parts.hostname or ""):
            raise InvalidRequestError(
                f"{url} would be sent the node's key in the clear; use https:// with the fingerprint that "
                "`council node start` prints there, or start this master with --insecure-lan on a network "
                "that you trust entirely"
            )

    def _trust(self, url: str, name: str, fingerprint: str | None) -> Trust | None:
        if not url.startswith("https://"):
            if fingerprint is not None:
                raise InvalidRequestError(f"a fingerprint needs an address with https://, not {url}")
            return None
        if fingerprint is not None:
            return Trust.of_fingerprint(fingerprint)
        if self._authority is None:
            raise InvalidRequestError(
                f"{url} needs its fingerprint, which `council node start` prints there: --fingerprint F; a "
                "node that runs with --insecure-lan is added as http://… and without a key"
            )
        return Trust(self._authority, node_name(name))

    def get(self, name: str) -> Node:
        try:
            return self.nodes[name]
        except KeyError:
            known = ", ".join(sorted(self.nodes)) or "none"
            raise NotFoundError(f"no node is named {name}; known: {known}") from None

    async def remove(self, name: str) -> None:
        node = self.get(name)
        del self.nodes[name]
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await node.client.aclose()
        self._tell(node)

    async def close(self) -> None:
        self.listeners.clear()
        for name in list(self.nodes):
            await self.remove(name)

    def nodes_with(self, model: str, *, answering: bool = True, engine: EngineName = "main") -> list[Node]:
        """The nodes that have the model on this engine, and whose engine serves."""
        return [
            node
            for node in self.nodes.values()
            if node.model(model, engine) is not None and (node.answers_on(engine) or not answering)
        ]

    def has(self, model: str, *, answering: bool = True, engine: EngineName = "main") -> bool:
        """Whether some node has the model on this engine: `nodes_with`, as far as the first."""
        for node in self.nodes.values():
            if node.model(model, engine) is not None and (not answering or node.answers_on(engine)):
                return True
        return False

    async def refresh(self, node: Node) -> None:
        """One heartbeat now."""
        before, checks = node.state, node.health.checks if node.health is not None else {}
        client = node.client
        try:
            if node.is_nowhere:
                raise NodeUnreachableError(f"another node has the address of {node.name}", node=node.name)
            health = await client.health()
            engines, inventory = node.engines, None
            if engines == [] or health.checks != checks or node.state in ("connecting", "unreachable"):
                engines = await client.engines()
            # Each engine may serve while the other is down.
            if health.status != "unhealthy" or health.checks.get(_BACKGROUND) == "connected":
                inventory = await client.inventory()
            if node.client is not client:  # it has moved meanwhile, and who answered was another
                return
            # All at once: whoever looks meanwhile must not see half of it.
            node.engines, node.health, node.last_seen = engines, health, time.time()
            node.reported_name = health.name
            node.state = health.status
            node.error = _first_trouble(health) if health.status == "unhealthy" else None
            if inventory is not None:
                _take_stock(node, inventory)
        except CouncilError as error:
            if node.client is not client:
                return
            node.state, node.error = "unreachable", error.detail
        if node.state != before:
            _tell_state(node, before)
            self._settled.set()
        self._tell(node)

    def _tell(self, node: Node) -> None:
        self.on_change(node)
        for listener in self.listeners:
            listener()

    async def _watch(self, node: Node) -> None:
        while True:
            try:
                await self.refresh(node)
                for engine in ENGINES:
                    if node.answers_on(engine) and await canary.sing(node, engine):
                        self._tell(node)
                await self._sample(node)
            except Exception:
                _log.exception("heartbeat failed", node=node.name)
            await asyncio.sleep(self._heartbeat_s)

    async def _sample(self, node: Node) -> None:
        """Note how busy the machine is; what a busy one does not tell in time is left out."""
        now = time.monotonic()
        # CPU is a difference: the second look comes soon after the first.
        every_s = _SECOND_SAMPLE_S if node.systems_told == 1 else self.sample_every_s
        tells = node.answers or node.state == "unhealthy"
        if tells and now - node.system_told_at >= every_s:
            with contextlib.suppress(CouncilError, TimeoutError):
                async with asyncio.timeout(_SAMPLE_TIMEOUT_S):
                    system = await node.client.system()
                    node.systems_told, node.system_told_at = node.systems_told + 1, time.monotonic()
                    if node.history.is_due(time.time()):
                        node.history.add(time.time(), system)
                    for listener in self.system_listeners:
                        listener(node, node.system_told_at, system)
                    await self._learn_mac(node, system)

    async def _learn_mac(self, node: Node, system: dict[str, Any]) -> None:
        """Keep the card's address, which nobody can ask for once the PC sleeps; what a person said stays."""
        mac = await learned_mac(node.client.url, system)
        if mac is not None and node.mac is None:
            node.mac = mac
            await self.on_mac(node.name, mac)


def _tell_state(node: Node, before: str) -> None:
    """Whoever was told that a node is lost is told as well that it is back."""
    log = _log.info if {before, node.state} <= _EXPECTED else _log.warning
    log("node state", node=node.name, was=before, state=node.state, reason=node.error)


def _take_stock(node: Node, inventory: Inventory) -> None:
    """An engine that did not tell its models keeps those that it had."""
    of_main, of_background = inventory.of("main"), inventory.of("background")
    node.models = node.models if of_main is None else of_main
    node.background_models = node.background_models if of_background is None else of_background
    node.max_loaded = inventory.max_loaded


async def _ignore_mac(_name: str, _mac: str) -> None:
    """Nobody keeps it."""


def check_url(url: str) -> str:
    """A node's address without its trailing slash; one without a scheme is HTTPS on other machines.

    Raises `InvalidRequestError`.
    """
    try:
        parts = urlsplit(url if "://" in url else f"{_scheme_at(url)}://{url}")
        port = parts.port
    except ValueError as error:
        raise InvalidRequestError(f"{url!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise InvalidRequestError(
            f"{url!r} is not the address of a node; it looks like https://192.168.1.20:8001"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or 8001}{parts.path.rstrip('/')}"


def _scheme_at(address: str) -> str:
    return "http" if is_loopback(host_name(address)) else "https"


def default_name(url: str) -> str:
    parts = urlsplit(url)
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{parts.hostname}-{parts.port}").strip("-")


def _first_trouble(health: Health) -> str:
    return next((f"{what}: {how}" for what, how in health.checks.items() if how != "connected"), "unhealthy")
