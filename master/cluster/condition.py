"""What is wrong with a node, in words that tell no address: pure.

The same words stand in `/health` of the master, which needs no key, and in `council worker list`.
"""

from __future__ import annotations

from master.cluster.node import Node

_WELL = frozenset({"connected", "open"})


def trouble(node: Node, now: float, wall: float) -> str | None:
    """One line, `None` when all is well. `now` is the breaker's clock, `wall` the Unix time."""
    if node.draining:
        return f"draining: it takes nothing new until `council worker resume {node.name}`"
    if node.state == "connecting":
        return "has not answered yet"
    if node.state == "unreachable":
        if node.is_nowhere:
            return "unreachable: another node has its address; it is found again when it tells its new one"
        if node.last_seen is None:
            return "unreachable: it has not answered since the master started"
        return f"unreachable: no answer for {_duration(wall - node.last_seen)}"
    if not node.breaker.allows(now) or not node.breaker.is_closed:
        return f"calls failed there {node.breaker.failures} times in a row; one is tried again soon"
    if not node.background_breaker.is_closed:
        failed = node.background_breaker.failures
        return f"calls failed on its background engine {failed} times in a row; one is tried again soon"
    if node.state == "healthy":
        return None
    checks = node.health.checks if node.health else {}
    wrong = [f"{what.replace('_', ' ')} {how}" for what, how in checks.items() if how not in _WELL]
    return f"{node.state}: {', '.join(wrong) or 'it does not say why'}"


def _duration(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
