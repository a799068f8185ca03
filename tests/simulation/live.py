"""Record a run: a real master and nodes before engines of known speeds hold several councils at once."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from master.cluster.model_names import canonical
from master.state.store import Store
from tests import processes
from tests.simulation.physics import ModelSpec, NodeSpec
from tests.simulation.recording import RecordedCall, RecordedSession, Recording
from tests.standin.process import StandInProcess

GB = 1_000_000_000
_READY_S = 30.0
_SESSION_S = 120
OPINION_TOKENS = 60
CHARACTERS_PER_TOKEN = 4.0  # as the dispatcher guesses


def _model(size: int, load_s: float, token_s: float, slots: int) -> ModelSpec:
    return ModelSpec(size, load_s, token_s / 40, token_s, slots)


SPECS: tuple[NodeSpec, ...] = (
    NodeSpec(
        "fast",
        {
            "llama3.2:1b": _model(GB, 0.6, 0.006, 2),
            "phi3.5:3.8b": _model(2 * GB, 1.2, 0.010, 2),
            "qwen2.5:7b": _model(5 * GB, 2.0, 0.016, 2),
        },
        max_loaded=1,
        cached_share=0.0,
    ),
    NodeSpec(
        "roomy",
        {
            "llama3.2:1b": _model(GB, 0.8, 0.012, 1),
            "phi3.5:3.8b": _model(2 * GB, 1.4, 0.018, 1),
            "llama3.2:3b": _model(2 * GB, 1.4, 0.020, 1),
        },
        max_loaded=2,
        cached_share=0.0,
    ),
    NodeSpec(
        "shared",
        {
            "llama3.2:1b": _model(GB, 1.0, 0.008, 2),
            "llama3.2:3b": _model(2 * GB, 1.6, 0.014, 2),
            "qwen2.5:7b": _model(5 * GB, 2.4, 0.022, 2),
        },
        max_loaded=1,
        sharing=0.4,
        cached_share=0.0,
    ),
)
MODELS = tuple(sorted({name for spec in SPECS for name in spec.models}))


@dataclass(frozen=True, slots=True)
class Question:
    after_s: float
    seats: Sequence[str]
    chairman: str


def questions(seed: int, number: int, every_s: float) -> list[Question]:
    """Councils of two to four different models, at random times."""
    rng, at, made = random.Random(seed), 0.0, []
    for _ in range(number):
        seats = rng.sample(MODELS, rng.randint(2, 4))
        made.append(Question(at, seats, rng.choice(seats)))
        at += rng.expovariate(1 / every_s)
    return made


async def record(asked: Sequence[Question], specs: Sequence[NodeSpec] = SPECS) -> Recording:
    """Hold these councils. Nothing is loaded when the first is asked; the speeds are learned already."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        engines: dict[str, StandInProcess] = {}
        nodes: dict[str, str] = {}
        for spec in specs:
            engine = engines[spec.name] = stack.enter_context(StandInProcess(_standin(spec)))
            slots = max(model.slots for model in spec.models.values())
            env = {"OLLAMA_NUM_PARALLEL": str(slots), "OLLAMA_MAX_LOADED_MODELS": str(spec.max_loaded)}
            node = await stack.enter_async_context(
                processes.node(folder / spec.name, name=spec.name, ollama=engine.base_url, env=env)
            )
            nodes[spec.name] = node.url
        await _learned(folder / "master", specs)
        master = await stack.enter_async_context(
            processes.master(folder / "master", nodes=nodes, env={"COUNCIL_HEARTBEAT_S": "2"})
        )
        client = await stack.enter_async_context(processes.client(master))
        await _until_known(client, specs)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_hold(client, began, one)) for one in asked]
        held = [task.result() for task in tasks]
        guesses = {name: _guesses(await asyncio.to_thread(engine.log)) for name, engine in engines.items()}
        counters = [await asyncio.to_thread(engine.counters) for engine in engines.values()]
        sessions = [
            RecordedSession(
                session["id"],
                at_s,
                took_s,
                one.seats,
                one.chairman,
                await _calls(client, session["id"], guesses),
            )
            for one, (at_s, took_s, session) in zip(asked, held, strict=True)
        ]
    return Recording(specs, sessions, sum(one["loads"] for one in counters))


async def _learned(data_dir: Path, specs: Sequence[NodeSpec]) -> None:
    """What a master knows that has worked with these nodes for long."""
    await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True)
    store = await Store.open(f"sqlite:///{data_dir / 'council.db'}", data_dir=data_dir)
    try:
        await store.speeds.keep(row for spec in specs for row in spec.known())
    finally:
        await store.close()


def _standin(spec: NodeSpec) -> dict[str, Any]:
    return {
        "models": [
            {
                "name": name,
                "size": model.size,
                "load_ms": model.load_s * 1000,
                "prompt_tokens_per_s": 1 / model.prompt_s_per_token,
                "token_ms": model.generate_s_per_token * 1000,
                "slots": model.slots,
                "answer_tokens": OPINION_TOKENS,
            }
            for name, model in spec.models.items()
        ],
        "max_loaded": spec.max_loaded,
        "shared_speed": spec.sharing,
        "context_length": 8192,
    }


async def _until_known(client: httpx.AsyncClient, specs: Sequence[NodeSpec]) -> None:
    async with asyncio.timeout(_READY_S):
        while True:
            workers = (await client.get("/api/cluster/workers")).json()["workers"]
            known = {one["name"]: len(one["models"]) for one in workers}
            if all(known.get(spec.name) == len(spec.models) for spec in specs):
                return
            await asyncio.sleep(0.05)


async def _hold(
    client: httpx.AsyncClient, began: float, question: Question
) -> tuple[float, float, dict[str, Any]]:
    await asyncio.sleep(max(began + question.after_s - time.monotonic(), 0.0))
    body = {
        "question": "Which of two ways to measure a thing is to be trusted more, and why?",
        "selected_agents": list(question.seats),
        "chairman": question.chairman,
    }
    asked = time.monotonic()
    response = await client.post(
        "/api/council/sessions",
        params={"wait": True, "wait_s": _SESSION_S},
        json=body,
        timeout=_SESSION_S + 10,
    )
    took = time.monotonic() - asked
    session: dict[str, Any] = response.json()
    if response.status_code != 201 or session.get("result") != "full":
        raise RuntimeError(f"a council ended as {response.status_code}: {str(session)[:500]}")
    return asked - began, took, session


def _guesses(log: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """(model, counted prompt tokens) → tokens that the master takes such a prompt for."""
    return {
        (canonical(one["model"]), one["prompt_eval_count"]): sum(
            len(message["content"]) for message in one["messages"]
        )
        / CHARACTERS_PER_TOKEN
        for one in log
        if one["messages"] and one["prompt_eval_count"] is not None
    }


async def _calls(
    client: httpx.AsyncClient, session_id: str, guesses: Mapping[str, Mapping[tuple[str, int], float]]
) -> list[RecordedCall]:
    """The session's calls as its events tell of them."""
    begun: dict[tuple[str, str], dict[str, Any]] = {}
    made: list[RecordedCall] = []
    for event in await _events(client, session_id):
        if event["type"] == "call.started":
            begun[event["stage"], event["agent_id"]] = event
        elif event["type"] == "call.completed":
            of = begun[event["stage"], event["agent_id"]]
            usage = event["token_usage"]
            prompt = usage["prompt_tokens"]
            made.append(
                RecordedCall(
                    event["stage"],
                    event["agent_id"],
                    of["model"],
                    of["node"],
                    prompt,
                    usage["completion_tokens"],
                    guesses[of["node"]][canonical(of["model"]), prompt],
                )
            )
    return made


async def _events(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    headers = {"accept": "text/event-stream", "last-event-id": "0"}
    response = await client.get(f"/api/council/sessions/{session_id}/events", headers=headers)
    return [
        json.loads(line.removeprefix("data: "))
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]
