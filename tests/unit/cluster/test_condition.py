"""A node in trouble is described in words, and never by its address."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.protocol import Health, HealthStatus
from master.cluster.breaker import Breaker
from master.cluster.condition import trouble
from master.cluster.node import Node, NodeState
from master.cluster.node_client import NodeClient
from master.whereabouts import nowhere

HERE = "http://192.168.1.20:8001"


def node(state: NodeState, *, url: str = HERE, **fields: Any) -> Node:
    client = cast(NodeClient, SimpleNamespace(url=url))
    return Node("pc2", client, state=state, error=f"no answer at {HERE}", **fields)


def health(status: HealthStatus, **checks: str) -> Health:
    return Health(
        status=status, role="worker", protocol=1, name="pc2", version="1", uptime_s=1.0, checks=checks
    )


def open_breaker() -> Breaker:
    breaker = Breaker()
    for _ in range(3):
        breaker.failed(100.0)
    return breaker


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (node("healthy"), None),
        (node("connecting"), "has not answered yet"),
        (node("unreachable"), "it has not answered since the master started"),
        (node("unreachable", last_seen=1000.0), "no answer for 65 s"),
        (node("unreachable", last_seen=1065.0 - 3 * 3600), "no answer for 3 h"),
        (node("unreachable", last_seen=2000.0), "no answer for 0 s"),
        (node("healthy", draining=True), "until `council worker resume pc2`"),
        (node("unreachable", url=nowhere(HERE, "pc2")), "another node has its address"),
        (node("healthy", breaker=open_breaker()), "3 times in a row"),
        (
            node("degraded", health=health("degraded", engine="connected", background_engine="disconnected")),
            "degraded: background engine disconnected",
        ),
        (
            node("unhealthy", health=health("unhealthy", engine="disconnected", admission="open")),
            "unhealthy: engine disconnected",
        ),
        (node("unhealthy"), "does not say why"),
    ],
)
def test_each_trouble_has_its_words(found: Node, words: str | None) -> None:
    told = trouble(found, now=101.0, wall=1065.0)
    if words is None:
        assert told is None
    else:
        assert told is not None
        assert words in told
        assert "192.168" not in told
