"""The examples of docs/api.md, typed as they stand there, against a real master and a real node."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.docs.__main__ import ROOT
from tests.standin import StandInModel, StandInOllama

MASTER, NODE = "http://127.0.0.1:8000", "http://127.0.0.1:8001"


def examples() -> list[str]:
    """Every `$ curl …` of the page, with its continued lines."""
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    return [line[2:] for line in blocks.splitlines() if line.startswith("$ curl")]


async def typed(command: str) -> tuple[int, bytes]:
    """Run one line in a shell, as a reader would; a proxy of the environment is not asked."""
    process = await asyncio.create_subprocess_shell(
        f"{command} --fail-with-body --max-time 60 --noproxy '*'",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told


@pytest.mark.skipif(sys.platform == "win32", reason="the examples are written for a POSIX shell")
async def test_every_example_of_the_api_page_works_as_it_is_typed(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        assert os.environ.get("CI") != "true", "curl is missing: apt-get install curl"
        pytest.skip("curl is missing: apt-get install curl")
    models = [StandInModel(name, resident=True) for name in ("llama3.2:1b", "qwen2.5:0.5b")]
    async with (
        StandInOllama(models, slots=5) as engine,
        processes.node(tmp_path / "node", name="pc2", ollama=engine.base_url) as node,
        processes.master(tmp_path / "master", nodes={"pc2": node.url}) as master,
    ):
        session_id = ""
        for command in examples():
            here = command.replace(MASTER, master.url).replace(NODE, node.url).replace("$ID", session_id)
            code, told = await typed(here)
            assert code == 0, f"{command}\n{told.decode(errors='replace')}"
            assert told.strip(), command
            if not session_id:
                session = json.loads(told)
                assert session["result"] == "full"
                session_id = session["id"]
    assert len(examples()) > 15, "the page has lost its examples, or this test no longer finds them"
