"""`/api/cluster/workers`: the nodes of the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from common.errors import (
    CouncilError,
    InvalidRequestError,
    NodeUnreachableError,
    UnauthorizedError,
    UntrustedPeerError,
)
from common.logs import get_logger
from master.api.schemas import AddWorker, WakeWorker
from master.cluster.condition import trouble
from master.cluster.history import KEPT_S
from master.cluster.node import ENGINES, Node
from master.cluster.speeds import Learned
from master.cluster.wake import check_mac, parse_settings, wake
from master.services import Master

router = APIRouter(prefix="/api/cluster/workers", tags=["cluster"])
_log = get_logger(__name__)


def describe(node: Node, *, running: int = 0) -> dict[str, Any]:
    health = node.health
    return {
        "name": node.name,
        "url": node.client.url,
        "state": "draining" if node.draining else node.state,
        "error": node.error,
        "reason": trouble(node, time.monotonic(), time.time()),
        "version": health.version if health else None,
        "uptime_s": health.uptime_s if health else None,
        "last_seen": node.last_seen,
        "running": running,
        "mac": node.mac,
        "slots": max((model.slots for model in node.models), default=0),
        "engines": [
            {
                "name": engine.name,
                "kind": engine.kind,
                "status": engine.status,
                "address": engine.address,
                "slots": max((model.slots for model in node.models_on(engine.name)), default=0),
            }
            for engine in node.engines
        ],
        "models": [
            {
                "name": model.name,
                "engine": model.engine,
                "size": model.size,
                "resident": model.resident,
                "slots": model.slots,
            }
            for engine in ENGINES
            for model in node.models_on(engine)
        ],
    }


masters_router = APIRouter(prefix="/api/cluster/masters", tags=["cluster"])


@masters_router.get("")
async def list_masters(master: Master) -> dict[str, Any]:
    """The masters that share this one's database, this one first; alone with SQLite."""
    return {"masters": master.masters.describe(master.settings.name)}


@router.get("")
async def list_workers(master: Master) -> dict[str, Any]:
    """The nodes; `starting` names those that are being started here and have no address yet."""
    return {
        "starting": master.registry.starting,
        "workers": [
            describe(node, running=master.dispatcher.lanes.running_on(node.name))
            for node in master.registry.nodes.values()
        ],
    }


@router.post("", status_code=201)
async def add_worker(body: AddWorker, master: Master) -> dict[str, Any]:
    """Register a node. It has to answer now, as a worker node of this protocol and with this key."""
    mac = check_mac(body.mac) if body.mac else None
    node = master.registry.add(body.url, name=body.name, key=body.key, fingerprint=body.fingerprint)
    try:
        health = await node.client.health()
        if health.role != "worker":
            raise NodeUnreachableError(f"{node.client.url} is a {health.role}, not a worker node")
        await node.client.models()
        await master.store.nodes.add(node.name, node.client.url, body.key, body.fingerprint)
        node.stored = True
    except (CouncilError, asyncio.CancelledError) as error:
        await master.registry.remove(node.name)
        if isinstance(error, UntrustedPeerError) and body.fingerprint is None:
            raise InvalidRequestError(
                f"{error.detail}; give what `council node start` printed there: --fingerprint F"
            ) from error
        if isinstance(error, UnauthorizedError):
            raise InvalidRequestError(
                f"{node.client.url} refused the key; give the node's own with --key"
            ) from error
        raise
    if mac is not None:
        await _keep_mac(node, mac, master)
    await master.registry.refresh(node)
    _log.info("node added", node=node.name, url=node.client.url)
    return describe(node)


@router.get("/{name}")
async def show_worker(name: str, master: Master) -> dict[str, Any]:
    """One node, with what it tells of its machine, how busy that was for an hour, how the calls of that hour
    ended (`calls`) and the speeds that were learned.
    """
    node = master.registry.get(name)
    shown = describe(node, running=master.dispatcher.lanes.running_on(name))
    try:
        shown["system"] = await node.client.system()
    except CouncilError as error:
        shown["system"] = None
        shown["error"] = shown["error"] or error.detail
    shown["use"] = master.usage.now().get(name, {})
    shown["background"] = master.gatekeeper.explain(name)
    shown["history"] = list(node.history.samples)
    calls = await master.store.nodes.calls_since(name, time.time() - KEPT_S)
    shown["calls"] = {
        "window_s": KEPT_S,
        "done": calls.done,
        "failed": calls.failed,
        "error_rate": calls.error_rate,
        "errors": calls.errors,
    }
    shown["speeds"] = _speeds(await master.store.speeds.of_node(name))
    return shown


def _speeds(learned: Sequence[Learned]) -> list[dict[str, Any]]:
    """One entry per model and engine; `model` is empty for how much calls on an engine slow each other."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in learned:
        entry = found.setdefault((one.engine, one.model), {"engine": one.engine, "model": one.model})
        if one.quantity in ("load", "sharing"):
            entry["load_s" if one.quantity == "load" else "sharing"] = round(one.value, 3)
        elif one.value > 0:
            entry[f"{one.quantity}_tokens_per_s"] = round(1 / one.value, 1)
    return list(found.values())


@router.delete("/{name}", status_code=204)
async def remove_worker(name: str, master: Master) -> None:
    """Forget a node; calls that run on it are restarted elsewhere. It is told, if it can be reached: else it
    hears of it when it tells its address next.
    """
    node = master.registry.get(name)
    node.leaving = True
    try:
        await master.store.nodes.remove(name)
        if node.state != "unreachable":
            await _dismiss(node)
    finally:
        node.leaving = False
    await master.registry.remove(name)


async def _dismiss(node: Node) -> None:
    try:
        await node.client.dismiss()
    except CouncilError as error:
        _log.info("removed node not told", node=node.name, reason=error.detail)


@router.post("/{name}/drain")
async def drain_worker(name: str, master: Master) -> dict[str, Any]:
    """Send the node nothing new; what runs there ends."""
    return await _set_draining(name, master, True)


@router.post("/{name}/resume")
async def resume_worker(name: str, master: Master) -> dict[str, Any]:
    return await _set_draining(name, master, False)


@router.post("/{name}/wake")
async def wake_worker(name: str, master: Master, body: WakeWorker | None = None) -> dict[str, Any]:
    """Send the wake-up packet to a PC; whether it woke shows in its state, some seconds later.

    Its card's address is the one given here (and kept), or of the settings, or what its node told once.
    """
    node = master.registry.get(name)
    if body is not None and body.mac is not None:
        mac: str | None = check_mac(body.mac)
        await _keep_mac(node, check_mac(body.mac), master)
    else:
        mac = parse_settings(master.settings.wake).get(name) or node.mac
    if mac is None:
        raise InvalidRequestError(
            f"the network card of {name} is not known; tell it once, `council worker wake {name} --mac "
            "AA:BB:CC:DD:EE:FF`"
        )
    await wake(mac, master.settings.wake_address)
    _log.info("wake-up packet sent", node=name, mac=mac)
    return {"name": name, "mac": mac, "state": node.state}


async def _keep_mac(node: Node, mac: str, master: Master) -> None:
    await master.store.nodes.set_mac(node.name, mac)
    node.mac = mac


async def _set_draining(name: str, master: Master, draining: bool) -> dict[str, Any]:
    node = master.registry.get(name)
    await master.store.nodes.set_draining(name, draining)
    node.draining = draining
    master.dispatcher.pump()
    return describe(node, running=master.dispatcher.lanes.running_on(name))
