"""What the embedded engine makes of processes that die, files that lie, and a parent that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from common.errors import CouncilError, EngineFailedError, OutOfMemoryError, StreamCutError
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
from worker_node.engines.base import ModelLimits
from worker_node.engines.embedded import EmbeddedEngine
from worker_node.practice import write_practice_models

HOST = """
import asyncio, json, sys
from pathlib import Path
from worker_node.engines.base import ModelLimits
from worker_node.engines.embedded import EmbeddedEngine

async def main():
    engine = EmbeddedEngine(models_dir=Path(sys.argv[1]), limits=ModelLimits(num_parallel=1))
    await engine.start()
    await engine.load("practice-owl")
    await engine.embed("practice-fox", ["one"])
    print("PIDS", json.dumps(engine.process_ids()), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
BUSY_HOST = HOST.replace(
    "    await asyncio.Event().wait()",
    "    from tests.service.worker_node.embedded_support import endless\n"
    "    while True:\n"
    "        async for _ in engine.generate(endless()): pass",
)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_practice_models(folder)
    return folder


async def die(engine: EmbeddedEngine, pid: int) -> None:
    """Kill a process and wait until the engine knows; to wait for it here would take the news away."""
    psutil.Process(pid).kill()
    async with asyncio.timeout(10):
        while pid in engine.process_ids():
            await engine.models()


@contextlib.contextmanager
def orphans_of_a_killed_host(models_dir: Path, script: str = HOST) -> Iterator[list[psutil.Process]]:
    """Start a process that holds an engine, give its engine's processes out, kill it, and end them."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(models_dir)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        line = next(line for line in parent.stdout if line.startswith(b"PIDS "))
        children = [psutil.Process(pid) for pid in json.loads(line.removeprefix(b"PIDS "))]
        parent.kill()
        parent.wait(10)
        try:
            yield children
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


async def test_a_killed_process_cuts_its_call_and_the_next_call_recovers(models_dir: Path) -> None:
    async with running_engine(models_dir, context=32768) as engine:
        async with aclosing(engine.generate(endless())) as events:  # type: ignore[type-var]
            await anext(events)
            (pid,) = engine.process_ids()
            psutil.Process(pid).kill()
            with pytest.raises(StreamCutError) as caught:
                _ = [event async for event in events]
            assert caught.value.model == OWL
        _, finished = await answer(engine, ask())
        assert finished.done_reason == "stop"
        assert engine.process_ids() != [pid]


async def test_a_death_between_calls_is_not_noticed_by_callers(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        await engine.load(OWL)
        await die(engine, engine.process_ids()[0])
        assert await resident(engine) == set()
        assert engine.process_ids() == []
        assert (await engine.info()).status == "connected"
        assert (await answer(engine, ask()))[0]


async def test_one_models_death_leaves_the_others_alone(models_dir: Path) -> None:
    async with running_engine(models_dir, context=32768) as engine:
        await engine.load(FOX)
        (fox,) = engine.process_ids()
        async with aclosing(engine.generate(endless(OWL))) as events:  # type: ignore[type-var]
            await anext(events)
            psutil.Process(fox).kill()
            for _ in range(50):
                await anext(events)


async def test_repeated_deaths_back_off_and_a_finished_call_clears_them(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        for _ in range(2):
            await engine.load(OWL)
            await die(engine, engine.process_ids()[0])
        with pytest.raises(EngineFailedError, match="2 times in a row") as caught:
            await engine.load(OWL)
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= 1.0
        assert (await answer(engine, ask(BEE)))[0]
        await asyncio.sleep(caught.value.retry_after_s)  # the pause that was announced
        assert (await answer(engine, ask()))[0]
        pid = engine._children[OWL].pid
        assert pid is not None
        await die(engine, pid)
        assert (await answer(engine, ask()))[0]


async def test_a_dead_embedding_process_is_replaced(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        await engine.embed(OWL, ["one"])
        await die(engine, engine.process_ids()[0])
        assert (await engine.embed(OWL, ["one"])).embeddings


async def test_a_truncated_model_fails_by_its_name_and_harms_nothing(tmp_path: Path) -> None:
    write_noise(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(content[: len(content) // 2])
    async with running_engine(tmp_path) as engine:
        assert [model.name for model in await engine.models()] == ["half", "whole"]
        with pytest.raises(EngineFailedError, match=r"half\.gguf.*council models get") as caught:
            await engine.load("half")
        assert "corrupted or incomplete" in caught.value.detail
        with pytest.raises(EngineFailedError):
            await engine.load("half")
        with pytest.raises(EngineFailedError, match=r"half\.gguf") as again:
            await engine.load("half")
        assert again.value.retry_after_s is not None
        await engine.load("whole")
        assert await resident(engine) == {"whole"}
        (tmp_path / "half.gguf").write_bytes(content)
        await engine.models()
        await engine.load("half")


async def test_a_file_of_junk_is_not_offered_and_fails_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "junk.gguf").write_bytes(b"<html>404</html>" * 100)
    async with running_engine(tmp_path) as engine:
        assert "junk" not in {model.name for model in await engine.models()}
        with pytest.raises(EngineFailedError, match=r"junk\.gguf"):
            await engine.load("junk")
        assert (await answer(engine, ask()))[0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a process's address space")
async def test_a_model_that_does_not_fit_is_out_of_memory(models_dir: Path) -> None:
    import resource

    limits = ModelLimits(num_parallel=4, context_length=2_000_000)
    engine = EmbeddedEngine(models_dir=models_dir, limits=limits)
    await engine.start()
    engine._context = lambda model: limits.context_length  # type: ignore[method-assign]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        # The child inherits 2 GiB of address space, as much as its cache alone.
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, hard))
        with pytest.raises(OutOfMemoryError, match=r"practice-owl\.gguf.*OLLAMA_NUM_PARALLEL"):
            await engine.load(OWL)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        await engine.stop()


async def test_a_model_that_talks_rubbish_ends_in_text_or_one_of_our_errors(tmp_path: Path) -> None:
    write_noise(tmp_path / "noise.gguf")
    async with running_engine(tmp_path) as engine:
        codes = set()
        for seed in range(10):
            try:
                await answer(engine, ask("noise", options={"seed": seed, "num_predict": 60}, format="json"))
            except CouncilError as error:
                codes.add(error.code)
        assert codes <= {"engine_failed", "invalid_output", "stream_cut"}
        assert engine.process_ids()


def test_no_process_survives_the_death_of_its_parent(models_dir: Path) -> None:
    with orphans_of_a_killed_host(models_dir) as children:
        assert len(children) == 2
        assert psutil.wait_procs(children, 10)[1] == []


def test_a_parent_killed_during_a_generation_takes_its_process_along(models_dir: Path) -> None:
    with orphans_of_a_killed_host(models_dir, BUSY_HOST) as children:
        assert psutil.wait_procs(children, 10)[1] == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to wait for")
async def test_the_process_ends_on_sigterm_and_not_on_ctrl_c(models_dir: Path) -> None:
    async with running_engine(models_dir) as engine:
        await engine.load(OWL)
        process = psutil.Process(engine.process_ids()[0])
        process.send_signal(signal.SIGINT)
        assert (await answer(engine, ask()))[0]
        process.send_signal(signal.SIGTERM)
        gone, _ = await asyncio.to_thread(psutil.wait_procs, [process], 10)
        assert gone
