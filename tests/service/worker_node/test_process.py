"""The node as a process: how it starts, what it tells, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.service.worker_node.nodes import ROOT, NodeProcess
from tests.standin.process import StandInProcess

MODELS = [{"name": "m:latest", "resident": True, "token_ms": 20, "reply": " ".join(["word"] * 50)}]


@pytest.fixture(scope="module")
def ollama() -> Iterator[StandInProcess]:
    with StandInProcess({"models": MODELS, "slots": 4}) as server:
        yield server


def call(url: str, **fields: object) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=20) as client:
        return client.post(f"{url}/api/generate", json={"model": "m", "prompt": "x", **fields})


def test_a_node_tells_where_it_is_and_what_it_is_called(ollama: StandInProcess, tmp_path: Path) -> None:
    port_file = tmp_path / "node.json"
    with NodeProcess(
        tmp_path, "--name", "pc2", "--port-file", str(port_file), OLLAMA_BASE_URL=ollama.base_url
    ) as node:
        told = node.ready()
        assert told == json.loads(port_file.read_text())
        assert (told["name"], told["pid"]) == ("pc2", node.process.pid)
        assert call(told["url"], stream=False).json()["text"].startswith("word")


def test_an_idle_node_is_small(ollama: StandInProcess, tmp_path: Path) -> None:
    with NodeProcess(tmp_path, forked=False, OLLAMA_BASE_URL=ollama.base_url) as node:
        told = node.ready()
        call(told["url"], stream=False)
        assert psutil.Process(node.process.pid).memory_info().rss <= 90e6


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_end_and_admits_nobody(
    ollama: StandInProcess, tmp_path: Path, number: signal.Signals
) -> None:
    with (
        NodeProcess(tmp_path, OLLAMA_BASE_URL=ollama.base_url) as node,
        httpx.Client(trust_env=False) as client,
    ):
        url = node.ready()["url"]
        body = {"model": "m", "prompt": "x"}
        with client.stream("POST", f"{url}/api/generate", json=body, timeout=20) as response:
            reads = response.iter_raw()
            heard = next(reads)
            node.process.send_signal(number)
            while (refused := call(url)).status_code == 200:
                pass
            assert (refused.status_code, refused.json()["code"]) == (503, "node_draining")
            for data in reads:
                heard += data
        assert json.loads(heard.splitlines()[-1])["type"] == "done"
        assert node.process.wait(30) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
def test_after_the_drain_timeout_the_rest_is_told(ollama: StandInProcess, tmp_path: Path) -> None:
    with (
        NodeProcess(tmp_path, OLLAMA_BASE_URL=ollama.base_url, COUNCIL_NODE_DRAIN_TIMEOUT="0.1") as node,
        httpx.Client(trust_env=False) as client,
    ):
        url = node.ready()["url"]
        body = {"model": "m", "prompt": "x"}
        with client.stream("POST", f"{url}/api/generate", json=body, timeout=20) as response:
            reads = response.iter_raw()
            heard = next(reads)
            node.process.send_signal(signal.SIGTERM)
            for data in reads:
                heard += data
        assert json.loads(heard.splitlines()[-1])["error"]["code"] == "node_draining"
        assert node.process.wait(30) == 0


def test_a_node_ends_with_its_parent(ollama: StandInProcess, tmp_path: Path) -> None:
    with NodeProcess(tmp_path, "--exit-with-parent", OLLAMA_BASE_URL=ollama.base_url) as node:
        node.ready()
        assert node.process.stdin is not None
        node.process.stdin.close()
        assert node.process.wait(30) == 0


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with NodeProcess(tmp_path, "--engine", "ollama", "--port", str(port)) as node:
            assert node.process.wait(20) == 1
            errors = node.errors().splitlines()
    assert len(errors) == 1
    assert f"port {port}" in errors[0]
    assert "--port" in errors[0]


def test_an_engine_that_is_not_there_yet_does_not_stop_the_node(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with NodeProcess(tmp_path, "--engine", "ollama", OLLAMA_BASE_URL=address) as node:
            url = node.ready()["url"]
            assert call(url).json()["code"] == "engine_unavailable"
            assert httpx.get(f"{url}/health", trust_env=False).status_code == 503


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from worker_node.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'uvicorn', 'fastapi', 'httpx', 'aiohttp', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=20, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"--exit-with-parent" in ended.stdout


def test_an_unknown_setting_is_one_clear_line(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("[node]\nprot = 1\n")
    with NodeProcess(tmp_path, "--config", str(config)) as node:
        assert node.process.wait(20) == 1
        assert "unknown setting prot" in node.errors()
