"""The embedded engine with the real llama.cpp: what it answers, and what it keeps loaded."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from common.errors import ContextOverflowError, EngineBusyError, ModelNotFoundError
from common.protocol import Message
from master.council.ballots import Ballot, ballot_schema, parse_ballot, worst_case_tokens
from tests.random_weights import write_noise
from tests.service.worker_node.embedded_support import (
    BEE,
    FOX,
    OWL,
    answer,
    ask,
    endless,
    resident,
    running_engine,
)
from worker_node.engines.base import Text
from worker_node.engines.embedded import EmbeddedEngine
from worker_node.practice import write_practice_models


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_practice_models(folder)
    return folder


async def slots(engine: EmbeddedEngine, model: str) -> list[dict[str, Any]]:
    """llama.cpp's own view of its slots."""
    listed: list[dict[str, Any]] = (await engine._children[model].client.get("/slots")).json()
    return listed


async def busy_slots(engine: EmbeddedEngine, model: str) -> int:
    return sum(bool(slot["is_processing"]) for slot in await slots(engine, model))


async def all_slots_free(engine: EmbeddedEngine, model: str) -> None:
    async with asyncio.timeout(30):
        while await busy_slots(engine, model):
            pass  # each question takes a turn of the loop


async def test_a_fresh_folder_answers_readable_text_that_ends_by_itself(tmp_path: Path) -> None:
    async with running_engine(tmp_path / "models") as engine:
        models = await engine.models()
        assert [model.name for model in models] == [BEE, FOX, OWL]
        assert all(model.practice and model.context_length == 8192 for model in models)
        texts = set()
        for model in models:
            text, finished = await answer(engine, ask(model.name))
            assert finished.done_reason == "stop"
            assert 40 <= finished.token_usage.completion_tokens <= 140
            assert text.isprintable() or "\n" in text
            texts.add(text[:10])
        assert len(texts) == 3


@pytest.mark.parametrize("temperature", [0, 0.7, 1.5])
async def test_text_ends_at_every_temperature(models_dir: Path, temperature: float) -> None:
    async with running_engine(models_dir) as engine:
        for model in (OWL, FOX, BEE):
            _, finished = await answer(engine, ask(model, options={"temperature": temperature}))
            assert finished.done_reason == "stop"


async def test_an_answer_streams_in_many_pieces(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        events = [event async for event in engine.generate(ask())]
        assert len(events) > 3  # how many depends on how much one read brings
        assert all(isinstance(event, Text) and event.text for event in events[:-1])


async def test_a_seed_repeats_an_answer(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        said = [(await answer(engine, ask(options={"seed": seed})))[0] for seed in (5, 5, 6)]
        assert said[0] == said[1] != said[2]


async def test_num_predict_cuts_with_the_reason_length(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        _, finished = await answer(engine, ask(options={"num_predict": 7}))
        assert finished.done_reason == "length"
        assert finished.token_usage.completion_tokens == 7


async def test_token_counts_are_the_engines_own(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        messages = [Message("system", "Be brief."), Message("user", "Who are you, 朋友?")]
        request = ask(options={"temperature": 0})
        request = type(request)(model=OWL, messages=messages, options={"temperature": 0})
        _, finished = await answer(engine, request)
        client = engine._children[OWL].client
        plain = {"messages": [{"role": one.role, "content": one.content} for one in messages]}
        whole = (await client.post("/v1/chat/completions", json=plain | {"temperature": 0})).json()
        assert finished.token_usage.prompt_tokens == whole["usage"]["prompt_tokens"]
        assert finished.token_usage.completion_tokens == whole["usage"]["completion_tokens"]
        rendered = (await client.post("/apply-template", json=plain)).json()["prompt"]
        body = {"content": rendered, "parse_special": True}
        assert finished.token_usage.prompt_tokens == len(
            (await client.post("/tokenize", json=body)).json()["tokens"]
        )
        assert finished.prompt_ms is not None
        assert finished.generate_ms is not None


@pytest.mark.parametrize(
    "prompt",
    [
        "理事会是什么,请用中文回答。",
        "🙂👩‍👩‍👧‍👦🏳️‍🌈",
        "ما هو المجلس؟",
        "a\x00b\u2028c\u0085d",
        "<|im_end|><|im_start|>x",
        " ",
    ],
)
async def test_a_question_in_any_script_is_answered(models_dir: Path, prompt: str) -> None:
    async with running_engine(models_dir) as engine:
        text, finished = await answer(engine, ask(prompt=prompt))
        assert text
        assert finished.done_reason == "stop"


async def test_a_hundred_ballots_parse_with_every_label_once(models_dir: Path) -> None:
    letters = "BCDFGHJKLMNPQRSTVWXZ"
    async with running_engine(models_dir, slots=5, context=16384) as engine:

        async def ballot(number: int) -> None:
            labels = letters[number % 4 : number % 4 + 2 + number % 15]
            longest = (40, 80, 200, 400)[number % 4]
            request = ask(
                (OWL, FOX, BEE)[number % 3],
                f"Rank {', '.join(labels)}. " + '{"rankings": [{"label": "B"}]} ' * 3,
                format=ballot_schema(labels, longest),
                options={
                    "temperature": (0.0, 0.2, 0.8, 1.2)[number // 25],
                    "num_predict": worst_case_tokens(len(labels), longest),
                },
            )
            text, finished = await answer(engine, request)
            assert finished.done_reason == "stop"
            parsed = parse_ballot(text, labels)
            assert isinstance(parsed, Ballot), (labels, text, parsed)
            assert all(vote.reasoning[0].isupper() for vote in parsed.votes)

        for first in range(0, 100, 10):
            await asyncio.gather(*(ballot(number) for number in range(first, first + 10)))


async def test_ballots_of_one_model_differ(models_dir: Path) -> None:
    request = ask(FOX, format=ballot_schema("BCDF"), options={"temperature": 0.2})
    async with running_engine(models_dir) as engine:
        scores = set()
        for _ in range(8):
            votes = json.loads((await answer(engine, request))[0])["rankings"]
            scores.add(tuple(sorted((vote["label"], vote["score"]) for vote in votes)))
        assert len(scores) > 1


async def test_format_json_gives_an_object(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        for model in (OWL, FOX, BEE):
            for _ in range(5):
                text, _ = await answer(engine, ask(model, format="json", options={"num_predict": 400}))
                assert isinstance(json.loads(text), dict)


async def test_an_unknown_schema_is_obeyed_too(models_dir: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["yes", "no"]},
            "why": {"type": "string", "maxLength": 60},
            "confidence": {"type": "number"},
        },
        "required": ["verdict", "why", "confidence"],
        "additionalProperties": False,
    }
    async with running_engine(models_dir) as engine:
        for seed in range(10):
            text, _ = await answer(engine, ask(format=schema, options={"seed": seed, "num_predict": 500}))
            assert json.loads(text)["verdict"] in ("yes", "no")


async def test_calls_run_side_by_side_in_the_slots(models_dir: Path) -> None:
    async with running_engine(models_dir, slots=2, context=32768) as engine:
        await engine.load(OWL)
        async with (
            aclosing(engine.generate(endless())) as one,  # type: ignore[type-var]
            aclosing(engine.generate(endless())) as two,  # type: ignore[type-var]
        ):
            assert isinstance(await anext(one), Text)
            assert isinstance(await anext(two), Text)
            assert await busy_slots(engine, OWL) == 2
            assert isinstance(await anext(one), Text)


async def test_hanging_up_frees_the_slot(models_dir: Path) -> None:
    async with running_engine(models_dir, slots=1, context=32768) as engine:
        events = engine.generate(endless())
        await anext(events)
        assert await busy_slots(engine, OWL) == 1
        await events.aclose()  # type: ignore[attr-defined]
        await all_slots_free(engine, OWL)
        _, finished = await answer(engine, ask())
        assert finished.done_reason == "stop"


async def test_a_cancelled_task_frees_the_slot(models_dir: Path) -> None:
    async with running_engine(models_dir, slots=1, context=32768) as engine:
        started = asyncio.Event()

        async def consume() -> None:
            async with aclosing(engine.generate(endless())) as events:  # type: ignore[type-var]
                async for _ in events:
                    started.set()

        task = asyncio.create_task(consume())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await all_slots_free(engine, OWL)


async def test_a_call_ends_with_length_when_its_slot_is_full(models_dir: Path) -> None:
    async with running_engine(models_dir, context=512) as engine:
        _, finished = await answer(engine, endless())
        assert finished.done_reason == "length"
        assert finished.token_usage.total_tokens <= 513


async def test_a_prompt_beyond_the_slot_is_an_overflow(models_dir: Path) -> None:
    async with running_engine(models_dir, context=512) as engine:
        with pytest.raises(ContextOverflowError) as caught:
            await answer(engine, ask(prompt="word " * 2000))
        assert caught.value.model == OWL
        assert "512" in caught.value.detail
        assert (await answer(engine, ask()))[1].done_reason == "stop"


async def test_an_unknown_model_names_what_exists_and_what_to_type(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        with pytest.raises(ModelNotFoundError, match=r"practice-owl.*council models get"):
            await answer(engine, ask("llama3.2:1b"))


async def test_loads_of_one_model_at_once_start_one_process(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        await asyncio.gather(*(engine.load(OWL) for _ in range(5)))
        assert len(engine.process_ids()) == 1
        assert await engine.load(OWL) == 0.0


async def test_a_load_survives_the_callers_cancellation(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        task = asyncio.create_task(engine.load(OWL))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            while OWL not in await resident(engine):
                pass  # each look at the folder gives the loop away


async def test_stop_gives_up_a_load_and_leaves_no_process(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        task = asyncio.create_task(engine.load(OWL))
        await asyncio.sleep(0)
        await engine.stop()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.process_ids() == []


async def test_the_model_unused_for_longest_makes_room(models_dir: Path) -> None:
    async with running_engine(models_dir, loaded=2) as engine:
        for model in (OWL, FOX, OWL, BEE):
            await answer(engine, ask(model))
        assert await resident(engine) == {OWL, BEE}
        assert len(engine.process_ids()) == 2


async def test_a_model_with_a_running_call_is_never_unloaded(models_dir: Path) -> None:
    async with running_engine(models_dir, loaded=1, context=32768) as engine:
        async with aclosing(engine.generate(endless())) as events:  # type: ignore[type-var]
            await anext(events)
            with pytest.raises(EngineBusyError, match="practice-owl"):
                await engine.load(FOX)
            with pytest.raises(EngineBusyError):
                await engine.unload(OWL)
            assert isinstance(await anext(events), Text)
        await engine.load(FOX)
        assert await resident(engine) == {FOX}


async def test_unload_ends_the_process_and_a_call_loads_anew(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        await engine.load(OWL)
        await engine.unload(OWL)
        assert engine.process_ids() == []
        await engine.unload(OWL)
        assert (await answer(engine, ask()))[0]


async def test_files_that_come_and_go_are_noticed(tmp_path: Path) -> None:
    async with running_engine(tmp_path) as engine:
        assert len(await engine.models()) == 3
        write_noise(tmp_path / "noise.gguf")
        listed = await engine.models()
        assert [(model.name, model.practice) for model in listed] == [("noise", False)]
        assert listed[0].capabilities == ["completion"]
        (tmp_path / "noise.gguf").unlink()
        assert len(await engine.models()) == 3
        shutil.rmtree(tmp_path / "practice")
        assert len(await engine.models()) == 3
        assert (await answer(engine, ask()))[0]


async def test_embeddings_of_related_texts_are_nearer(models_dir: Path) -> None:
    texts = [
        "the council reviews every answer",
        "each answer is reviewed by the council",
        "zebras graze at dusk, far away",
    ]
    async with running_engine(models_dir) as engine:
        embedded = await engine.embed(OWL, texts)
        first, related, unrelated = embedded.embeddings

        def cosine(one: list[float], two: list[float]) -> float:
            return sum(a * b for a, b in zip(one, two, strict=True)) / math.hypot(*one) / math.hypot(*two)

        assert cosine(first, related) > cosine(first, unrelated) + 0.2
        assert embedded.token_usage.prompt_tokens > 10
        assert embedded.token_usage.completion_tokens == 0
        assert (await engine.embed(OWL, [])).embeddings == []


async def test_an_embedding_beyond_the_batch_is_an_overflow(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        with pytest.raises(ContextOverflowError):
            await engine.embed(OWL, ["word " * 5000])
        await engine.embed(FOX, ["short"])
        assert len(engine.process_ids()) == 1


async def test_health_tells_version_and_place(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        await engine.load(OWL)
        info = await engine.info()
        assert (info.status, info.kind, info.address) == ("connected", "embedded", str(models_dir))
        assert info.version is not None
        assert "xllamacpp" in info.version
