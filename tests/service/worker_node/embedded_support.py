"""What the tests of the embedded engine share: engines on practice models, and calls that do not end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from common.protocol import GenerateRequest
from common.usage import TokenUsage
from worker_node.engines.base import Finished, ModelLimits, Text
from worker_node.engines.embedded import EmbeddedEngine

OWL, FOX, BEE = "practice-owl", "practice-fox", "practice-bee"

# At temperature 0 the practice models never close this list: the call ends with the context.
ENDLESS_FORMAT: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 10}},
        "required": ["score"],
        "additionalProperties": False,
    },
}


def ask(model: str = OWL, prompt: str = "What is a council?", **fields: Any) -> GenerateRequest:
    return GenerateRequest(model=model, prompt=prompt, **fields)


def endless(model: str = OWL) -> GenerateRequest:
    return ask(model, format=ENDLESS_FORMAT, options={"temperature": 0})


@asynccontextmanager
async def running_engine(
    models_dir: Path, *, slots: int = 2, loaded: int = 3, context: int = 8192, practice: bool = True
) -> AsyncIterator[EmbeddedEngine]:
    limits = ModelLimits(num_parallel=slots, max_loaded_models=loaded, context_length=context)
    engine = EmbeddedEngine(models_dir=models_dir, limits=limits, allow_practice=practice)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def answer(engine: EmbeddedEngine, request: GenerateRequest) -> tuple[str, Finished]:
    """Run one call to its end: the whole answer, and the engine's account of it."""
    text = ""
    finished: Finished | None = None
    async for event in engine.generate(request):
        assert finished is None, "something came after the last event"
        if isinstance(event, Text):
            text += event.text
        else:
            finished = event
    assert finished is not None
    assert isinstance(finished.token_usage, TokenUsage)
    return text, finished


async def resident(engine: EmbeddedEngine) -> set[str]:
    return {model.name for model in await engine.models() if model.resident}
