"""What is forked from the zygote is a process of its own, as `python -m` would start one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests import processes, zygote
from tests.processes import ForkedProcess

pytestmark = pytest.mark.skipif(not zygote.AVAILABLE, reason="nothing is forked on Windows")


@pytest.mark.parametrize(
    ("text", "code"), [(b'{"a":1}', 0), (b"no json", 1)], ids=["in-order", "with-an-error"]
)
async def test_a_forked_program_has_streams_and_an_exit_code_of_its_own(
    tmp_path: Path, text: bytes, code: int
) -> None:
    given = tmp_path / "given.json"
    given.write_bytes(text)
    with (tmp_path / "log").open("wb") as log:
        process = await ForkedProcess.start("json.tool", [str(given)], env=os.environ, stderr=log)
        out = await process.stdout.read()
        assert await process.wait() == process.returncode == code
    assert bool(out) == (code == 0)
    assert bool((tmp_path / "log").read_bytes()) == (code == 1)


def test_a_forked_program_waits_for_its_threads_and_runs_what_is_registered_for_its_end() -> None:
    setup = """
import atexit, threading
class Held:
    def __del__(self): print("let go")
held = Held()
held.itself = held
atexit.register(print, "registered")
threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
"""
    done = zygote.run("timeit", ["-n", "1", "-r", "1", "-s", setup, "pass"], env=os.environ)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split("\n")[1:] == ["thread", "registered", "let go", ""]


def test_a_forked_program_that_cannot_write_its_last_words_fails() -> None:
    process = zygote.Running("timeit", ["-n", "1", "-r", "1", "-s", "input()", "pass"], env=os.environ)
    with process.stdin, process.stderr:
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        said = process.stderr.read()
        assert (process.wait(20.0), b"BrokenPipeError" in said) == (120, True)


async def test_a_forked_program_dies_of_a_signal_and_the_next_one_lives(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        waits = await ForkedProcess.start("json.tool", [], env=os.environ, stderr=log)
        other = await ForkedProcess.start("json.tool", [], env=os.environ, stderr=log)
        assert waits.pid != other.pid
        waits.kill()
        assert await waits.wait() == -signal.SIGKILL
        assert other.returncode is None
        other.terminate()
        assert await other.wait() == -signal.SIGTERM


async def test_a_forked_program_reads_the_environment_that_it_is_given(tmp_path: Path) -> None:
    node = await processes.start(
        "worker_node",
        *("--port", "0"),
        data_dir=tmp_path / "node",
        env={
            "COUNCIL_NODE_NAME": "pc9",
            "COUNCIL_NODE_ENGINE": "ollama",
            "OLLAMA_BASE_URL": "http://127.0.0.1:9",
        },
    )
    async with processes.client(node) as client:
        assert (await client.get("/health")).json()["name"] == "pc9"
    assert await node.stop() == 0
    assert "COUNCIL_NODE_NAME" not in os.environ
