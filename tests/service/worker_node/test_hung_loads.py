"""An Ollama on another machine that falls silent while it loads: nobody sees an end of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.service.chaos.slow_link import SlowLink
from tests.service.worker_node.nodes import Node, node_in_process
from tests.standin.model import StandInModel
from tests.standin.ollama import StandInOllama


@asynccontextmanager
async def far_ollama(folder: Path, *, load_ms: float) -> AsyncIterator[tuple[StandInOllama, SlowLink, Node]]:
    models = [StandInModel("cold:latest", load_ms=load_ms), StandInModel("other:latest")]
    async with StandInOllama(models) as ollama:
        address = urlsplit(ollama.base_url)
        link = SlowLink(str(address.hostname), int(address.port or 0))
        async with (
            link.open(),
            node_in_process(folder, engine="ollama", ollama_base_url=link.url, load_timeout_s=0.6) as node,
        ):
            yield ollama, link, node


async def load_of_cold(ollama: StandInOllama, node: Node) -> asyncio.Task[str]:
    """The code that a call of the cold model ends with, once its load has begun."""

    async def code() -> str:
        answer = await node.whole(model="cold", prompt="x")
        return str(answer.json().get("code", "ok"))

    asked = asyncio.create_task(code())
    await ollama.until(lambda server: server.scheduler.loading == "cold:latest")
    return asked


async def until_loaded(node: Node, model: str) -> None:
    async with asyncio.timeout(15):
        while True:
            if (await node.whole(model=model, prompt="x")).status_code == 200:
                return
            await asyncio.sleep(0.1)


async def test_a_load_whose_engine_is_gone_is_given_up_and_the_next_one_runs(tmp_path: Path) -> None:
    async with far_ollama(tmp_path, load_ms=60_000) as (ollama, link, node):
        asked = await load_of_cold(ollama, node)
        link.stall()
        assert await asked == "load_timeout"
        ollama.drop_all_connections()
        link.strand()
        await until_loaded(node, "other")


async def test_a_load_whose_answer_was_lost_is_found_to_be_done(tmp_path: Path) -> None:
    async with far_ollama(tmp_path, load_ms=300) as (ollama, link, node):
        asked = await load_of_cold(ollama, node)
        link.stall()
        link.strand()
        assert await asked == "load_timeout"
        await until_loaded(node, "other")
        assert ollama.counters.loads == 2
        await until_loaded(node, "cold")
        assert ollama.counters.loads == 2


async def test_a_load_that_takes_longer_than_its_callers_wait_goes_on(tmp_path: Path) -> None:
    async with far_ollama(tmp_path, load_ms=1000) as (ollama, _link, node):
        assert await (await load_of_cold(ollama, node)) == "load_timeout"
        await until_loaded(node, "cold")
        assert (ollama.counters.loads, ollama.counters.aborted_loads) == (1, 0)
