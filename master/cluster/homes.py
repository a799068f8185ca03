"""Where a call may go at all, and the words for it where that is nowhere."""

from __future__ import annotations

from common import errors
from master.cluster.calls import Call
from master.cluster.registry import Node, Registry


def homes(registry: Registry, call: Call) -> list[Node]:
    """Where the call may go sooner or later: engines that serve and have its model, of nodes that are not
    drained.
    """
    having = registry.nodes_with(call.model, engine=call.engine)
    return [node for node in having if not node.draining]


def no_home(registry: Registry, call: Call) -> errors.CouncilError:
    """Why the call can go nowhere, and what to try."""
    drained = registry.nodes_with(call.model, engine=call.engine)
    if drained:
        names = " or ".join(f"`council worker resume {node.name}`" for node in drained)
        return errors.NodeUnreachableError(
            f"every node that answers and has {call.model} is drained and takes nothing new; "
            f"{names} lets calls go there again",
            node=drained[0].name,
            model=call.model,
        )
    known = registry.nodes_with(call.model, answering=False, engine=call.engine)
    if known:
        names = ", ".join(node.name for node in known)
        what = "node" if call.engine == "main" else "background engine"
        return errors.NodeUnreachableError(
            f"every {what} that has {call.model} is gone ({names}); see `council worker list`",
            node=known[0].name,
            model=call.model,
        )
    return errors.ModelUnavailableError(
        f"no node has {call.model} any more; see `council models list`", model=call.model
    )
