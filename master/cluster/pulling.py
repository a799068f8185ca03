"""Fetching a model on one node or on all: which nodes, and their progress in one stream.

A pull goes on in its node when nobody follows it any more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from common.errors import CouncilError, NodeUnreachableError, NotFoundError, NotSupportedError, StreamCutError
from common.protocol import EngineName
from master.cluster.model_names import ALIASES
from master.cluster.registry import Node, Registry

_HELD_LINES = 64


def choose_nodes(
    registry: Registry,
    *,
    worker: str | None,
    everywhere: bool,
    embedded: bool = False,
    engine: EngineName = "main",
) -> list[Node]:
    """The nodes that fetch: the named one, all of them, or the first that answers.

    `embedded` leaves out nodes whose main engine takes no GGUF files, the engine `background` those that have
    none. Raises `NotFoundError` and `NotSupportedError`.
    """
    if engine == "background":
        return _with_background_engine(registry, worker=worker, everywhere=everywhere)
    if worker is not None:
        node = registry.get(worker)
        if embedded and node.engines and not _takes_files(node):
            raise NotSupportedError(
                f"{worker} does not run the embedded engine, the one that takes GGUF files; `council "
                f"models pull` fetches a model through its own engine",
                node=worker,
            )
        return [node]
    nodes = [node for node in registry.nodes.values() if not embedded or _takes_files(node)]
    if everywhere:
        chosen = nodes
    else:
        chosen = [node for node in nodes if node.answers][:1]
    if chosen:
        return chosen
    if embedded and registry.nodes:
        raise NotFoundError(
            "no node runs the embedded engine, which is the one that takes GGUF files; `council models pull` "
            "fetches a model through Ollama"
        )
    raise NotFoundError("no node answers; see `council worker list`")


def _with_background_engine(registry: Registry, *, worker: str | None, everywhere: bool) -> list[Node]:
    if worker is not None:
        nodes = [registry.get(worker)]
    else:
        nodes = list(registry.nodes.values())
    having = [node for node in nodes if node.has_background_engine]
    if not having:
        raise NotFoundError(
            f"{worker or 'no node'} has {'no' if worker else 'a'} background engine; "
            "OLLAMA_BACKGROUND_BASE_URL on a node gives it one",
            node=worker,
        )
    if worker is not None or everywhere:
        return having
    return ([node for node in having if node.answers_on("background")] or having)[:1]


def _takes_files(node: Node) -> bool:
    return any(engine.name == "main" and engine.kind == "embedded" for engine in node.engines)


def _spelled_for(node: Node, model: str, engine: EngineName) -> str:
    """The model as the node's engine calls it: Ollama has one tag where people have two."""
    return model if engine == "main" and _takes_files(node) else ALIASES.get(model.lower(), model)


async def pull_on(
    registry: Registry, nodes: list[Node], model: str, engine: EngineName = "main"
) -> AsyncIterator[bytes]:
    """NDJSON progress of every node, each line with its `worker`; a failure ends that node's lines only."""
    news: asyncio.Queue[bytes] = asyncio.Queue(maxsize=_HELD_LINES)
    pulls = {asyncio.create_task(_follow(registry, node, model, engine, news)) for node in nodes}
    running = set(pulls)
    try:
        while running or not news.empty():
            getter = asyncio.ensure_future(news.get())
            try:
                await asyncio.wait((getter, *running), return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    yield getter.result()
            finally:
                getter.cancel()
            running = {pull for pull in running if not pull.done()}
        await asyncio.gather(*pulls)
    finally:
        for pull in pulls:
            pull.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)


async def _follow(
    registry: Registry, node: Node, model: str, engine: EngineName, news: asyncio.Queue[bytes]
) -> None:
    try:
        if not node.answers_on(engine) and node.state != "connecting":
            raise NodeUnreachableError(node.error or f"{node.name} is {node.state}", node=node.name)
        async with aclosing(_lines(node, model, engine)) as lines:
            async for line in lines:
                await news.put(_with_worker(line, node.name))
    except CouncilError as error:
        await news.put(_with_worker(json.dumps({"error": error.to_problem()}).encode(), node.name))
    # So that the model is offered at once, and not after the next heartbeat.
    await registry.refresh(node)


async def _lines(node: Node, model: str, engine: EngineName) -> AsyncGenerator[bytes, None]:
    async with node.client.pull(_spelled_for(node, model, engine), engine) as lines:
        async for line in lines:
            yield line


def _with_worker(line: bytes, worker: str) -> bytes:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise StreamCutError(f"{worker} sent progress that is not JSON", node=worker) from error
    return json.dumps({"worker": worker, **told}).encode() + b"\n"
