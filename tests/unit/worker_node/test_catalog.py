"""What a node knows of its engine's models, and how often it asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from common.errors import EngineUnavailableError, ModelNotFoundError
from common.protocol import EngineInfo, GenerateRequest, ModelInfo
from worker_node.catalog import Catalog
from worker_node.engines.base import Embedded, Engine, EngineEvent, PullProgress


class ListedEngine(Engine):
    """An engine that only lists; `gone` makes it fail."""

    name = "main"
    kind = "listed"

    def __init__(self) -> None:
        self.listed = [self.model("a:latest", resident=True), self.model("hf.co/B/c:Q4", resident=False)]
        self.asked = 0
        self.gone = False

    @staticmethod
    def model(name: str, *, resident: bool) -> ModelInfo:
        return ModelInfo(name=name, size=1, engine="main", resident=resident, slots=1)

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def info(self) -> EngineInfo:
        self.asked += 1
        return EngineInfo(name="main", kind="listed", address="", status="connected")

    async def models(self) -> list[ModelInfo]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.gone:
            raise EngineUnavailableError
        return self.listed

    async def load(self, model: str) -> float:
        raise NotImplementedError

    async def unload(self, model: str) -> None:
        raise NotImplementedError

    def generate(self, request: GenerateRequest) -> AsyncIterator[EngineEvent]:
        raise NotImplementedError

    async def embed(self, model: str, texts: list[str]) -> Embedded:
        raise NotImplementedError

    def pull(self, model: str) -> AsyncIterator[PullProgress]:
        raise NotImplementedError


async def test_many_who_ask_at_once_are_one_question_to_the_engine() -> None:
    engine = ListedEngine()
    catalog = Catalog(engine)
    await asyncio.gather(*[catalog.models() for _ in range(20)])
    assert engine.asked == 1
    await asyncio.gather(*[catalog.info() for _ in range(20)])
    assert engine.asked == 2


async def test_a_known_model_is_found_without_asking_again() -> None:
    engine = ListedEngine()
    catalog = Catalog(engine)
    for name in ("a", "A", "a:latest", "hf.co/b/c:q4"):
        assert await catalog.find(name) in engine.listed
    assert engine.asked == 1


@pytest.mark.parametrize("name", ["b", "a:other", "hf.co/B/c", "c:Q4"])
async def test_a_model_that_is_not_there_is_an_error_that_names_those_that_are(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="a:latest"):
        await Catalog(ListedEngine()).find(name)


async def test_an_engine_too_busy_to_list_is_still_used_for_what_it_had() -> None:
    engine = ListedEngine()
    catalog = Catalog(engine)
    await catalog.find("a")
    catalog.forget_residency()
    engine.gone = True
    assert (await catalog.find("a")).name == "a:latest"
    with pytest.raises(EngineUnavailableError):
        await catalog.find("unheard-of")


async def test_use_makes_a_model_resident_until_something_changes() -> None:
    engine = ListedEngine()
    catalog = Catalog(engine)
    cold = await catalog.find("hf.co/B/c:Q4")
    assert not catalog.is_resident(cold)
    assert catalog.is_resident(await catalog.find("a"))
    catalog.note_use(cold.name)
    assert catalog.is_resident(cold)
    catalog.forget_residency()
    assert not catalog.is_resident(cold)
