"""Nodes as settings spell them: `COUNCIL_NODES` and `COUNCIL_NODE_WEIGHTS`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import SettingsError

_FINGERPRINT = "@sha256:"


@dataclass(frozen=True, slots=True)
class ListedNode:
    """`fingerprint` is that of the certificate of a node that the cluster's authority did not sign for."""

    url: str
    name: str | None = None
    key: str | None = None
    fingerprint: str | None = None


def parse_node(entry: str) -> ListedNode:
    """`URL`, `NAME=URL`, `NAME=URL#KEY` or `NAME=https://…#KEY@sha256:FINGERPRINT`."""
    address, _, secret = entry.partition("#")
    key, separator, fingerprint = secret.rpartition(_FINGERPRINT)
    if not separator:
        key, fingerprint = secret, ""
    name, separator, url = address.partition("=")
    if not separator or "://" in name:
        return ListedNode(address, None, key or None, fingerprint or None)
    return ListedNode(url, name, key or None, fingerprint or None)


def parse_weights(entries: Iterable[str]) -> dict[str, float]:
    """`NAME=WEIGHT` as settings spell it. Raises `SettingsError`."""
    weights: dict[str, float] = {}
    for entry in entries:
        name, _, weight = entry.partition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            weights[name.strip()] = 0.0
        if not 0.01 <= weights[name.strip()] <= 100:
            raise SettingsError(
                f"{entry!r} is no weight of a node; it looks like pc2=2, from 0.01 to 100 (node_weights)"
            )
    return weights
