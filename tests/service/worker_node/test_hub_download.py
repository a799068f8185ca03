"""Fetching a GGUF file from the hub: whole and verified or not at all, and on from where it stopped."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.errors import CouncilError, DownloadFailedError, ModelNotFoundError
from tests.hub import COMMIT, FakeHub, serving
from tests.random_weights import write_noise
from tests.service.worker_node.embedded_support import running_engine
from worker_node.engines.base import PullProgress
from worker_node.engines.hub_child import fetch_from_hub

PLACE = "owner/tiny-GGUF/tiny.gguf"
MODEL = f"hf:{PLACE}"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "noise.gguf"
    write_noise(path)
    # The library writes 10 MiB at a time; llama.cpp reads past no tensor, so the rest may be anything.
    return path.read_bytes() + bytes(24 * MIB)


@pytest.fixture
def hub(gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving(FakeHub(files={PLACE: gguf_bytes})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "3")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


async def failure(model: str, folder: Path) -> CouncilError:
    with pytest.raises(CouncilError) as caught:
        await fetched(model, folder)
    return caught.value


async def fetched(model: str, folder: Path) -> list[PullProgress]:
    async with aclosing(fetch_from_hub(model, folder)) as news:
        return [progress async for progress in news]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


async def test_a_fetched_model_is_listed_at_once_and_practice_models_vanish(
    hub: FakeHub, tmp_path: Path
) -> None:
    async with running_engine(tmp_path) as engine:
        assert all(one.practice for one in await engine.models())
        told = [progress async for progress in engine.pull(MODEL)]
        assert [one.name for one in await engine.models()] == ["tiny"]
        assert await engine.load("tiny") > 0
    assert told[0].licence
    assert "huggingface.co/owner/tiny-GGUF" in told[0].status
    counted = [one.completed for one in told if one.status == "fetching tiny"]
    assert counted == sorted(counted, key=lambda count: count or 0)
    assert counted[-1] == len(hub.files[PLACE])
    assert told[-1].status == "success"


@contextmanager
def download(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program itself; killed at the end of the block."""
    command = [sys.executable, "-m", "worker_node.hub_download", "--folder", str(folder), MODEL]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def size_of_parts(folder: Path) -> list[int]:
    return [part.stat().st_size for part in (folder / ".fetching").glob("*.part")]


def until(holds: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_download_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path, gguf_bytes: bytes) -> None:
    hub.stop_after = 11 * MIB
    with download(tmp_path) as process:
        assert hub.stopped.wait(20)
        until(lambda: any(size_of_parts(tmp_path)))
    assert not (tmp_path / "tiny.gguf").exists()
    (kept,) = size_of_parts(tmp_path)
    assert 0 < kept < len(gguf_bytes)
    hub.stop_after = None
    with download(tmp_path) as process:
        assert list(lines_of(process))[-1] == {"status": "success"}
        assert process.wait(30) == 0
    assert hub.ranges() == [None, f"bytes={kept}-"]
    assert any(COMMIT in path for _, path, _ in hub.asked)
    assert (tmp_path / "tiny.gguf").read_bytes() == gguf_bytes
    assert left_over(tmp_path) == ["tiny.gguf"]


async def test_leaving_the_progress_ends_the_download_and_keeps_what_came(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.stop_after = 11 * MIB
    async with aclosing(fetch_from_hub(MODEL, tmp_path)) as news:
        async for progress in news:
            if progress.completed is not None:
                await asyncio.to_thread(until, lambda: any(size_of_parts(tmp_path)))
                break
    assert len(left_over(tmp_path)) == 1
    assert left_over(tmp_path)[0].endswith(".part")


def test_a_download_ends_with_the_program_that_started_it(hub: FakeHub, tmp_path: Path) -> None:
    hub.stop_after = 11 * MIB
    with download(tmp_path) as process:
        assert hub.stopped.wait(20)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 1


def test_two_downloads_of_one_model_fetch_it_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.stop_after = 11 * MIB
    with download(tmp_path) as first:
        assert hub.stopped.wait(20)
        with download(tmp_path) as second:
            assert any("another download" in line["status"] for line in lines_of(second))
            hub.go_on.set()
            assert list(lines_of(first))[-1] == {"status": "success"}
            assert list(lines_of(second))[-1] == {"status": "success"}
    assert hub.ranges() == [None]


async def test_bytes_with_the_wrong_checksum_are_deleted_and_said(hub: FakeHub, tmp_path: Path) -> None:
    hub.told_sha256 = "0" * 64
    error = await failure(MODEL, tmp_path)
    assert isinstance(error, DownloadFailedError)
    assert "checksum" in error.detail
    assert left_over(tmp_path) == []


async def test_a_file_that_is_no_model_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.files[PLACE] = b"<html>log in to this network first</html>"
    assert "no GGUF file" in (await failure(MODEL, tmp_path)).detail
    assert left_over(tmp_path) == []


async def test_without_a_connection_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused_tcp_port}")
    error = await failure("qwen2.5:0.5b", tmp_path)
    assert f"no connection to http://127.0.0.1:{unused_tcp_port}" in error.detail
    assert f"copy a GGUF file into {tmp_path}" in error.detail


async def test_a_full_disk_is_told_before_the_first_byte(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(full_disk(tmp_path / "site")))
    error = await failure(MODEL, tmp_path / "models")
    assert error.code == "storage_full"
    assert "0.03 GB more" in error.detail
    assert hub.ranges() == []


def full_disk(folder: Path) -> Path:
    """A folder for the module path under which every disk has 1 MB left."""
    folder.mkdir()
    lie = "import shutil, collections\nkind = collections.namedtuple('usage', 'total used free')\n"
    lie += "shutil.disk_usage = lambda path: kind(10**9, 10**9 - 10**6, 10**6)\n"
    (folder / "sitecustomize.py").write_text(lie)
    return folder


@pytest.mark.parametrize(
    "model", ["nonesuch:7b", "hf:owner/repo", "hf:../../etc/passwd.gguf", "--folder=/tmp"]
)
async def test_a_name_that_means_nothing_asks_no_hub(hub: FakeHub, tmp_path: Path, model: str) -> None:
    error = await failure(model, tmp_path)
    assert isinstance(error, ModelNotFoundError)
    assert "qwen2.5:0.5b" in error.detail
    assert hub.asked == []


async def test_what_the_hub_does_not_have_is_named(hub: FakeHub, tmp_path: Path) -> None:
    error = await failure("hf:owner/tiny-GGUF/other.gguf", tmp_path)
    assert isinstance(error, ModelNotFoundError)
    assert "owner/tiny-GGUF/other.gguf" in error.detail


async def test_a_gated_repository_says_where_to_accept_its_licence(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated = True
    error = await failure(MODEL, tmp_path)
    assert error.code == "forbidden"
    assert "HF_TOKEN" in error.detail


async def test_a_failing_hub_is_told_with_its_status(hub: FakeHub, tmp_path: Path) -> None:
    hub.status = 500
    assert "answered 500" in (await failure(MODEL, tmp_path)).detail


async def test_a_hub_with_another_file_than_the_catalogue_is_not_believed(
    hub: FakeHub, tmp_path: Path, gguf_bytes: bytes
) -> None:
    hub.files["bartowski/Qwen2.5-0.5B-Instruct-GGUF/Qwen2.5-0.5B-Instruct-Q4_K_M.gguf"] = gguf_bytes
    error = await failure("qwen2.5:0.5b", tmp_path)
    assert "another" in error.detail
    assert hub.ranges() == []


async def test_what_a_mirror_without_checksums_sends_is_held_to_that_of_the_catalogue(
    hub: FakeHub, tmp_path: Path, gguf_bytes: bytes
) -> None:
    hub.files["bartowski/Qwen2.5-0.5B-Instruct-GGUF/Qwen2.5-0.5B-Instruct-Q4_K_M.gguf"] = gguf_bytes
    hub.told_sha256 = "5f3c-of-a-mirror"
    assert "wrong checksum" in (await failure("qwen2.5:0.5b", tmp_path)).detail
    assert hub.ranges() == [None]
    assert left_over(tmp_path) == []


async def test_a_file_that_is_there_is_not_fetched_again_and_a_strange_one_is_kept(
    hub: FakeHub, tmp_path: Path, gguf_bytes: bytes
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes)
    told = await fetched(MODEL, tmp_path)
    assert told[-1].status == "success"
    (tmp_path / "tiny.gguf").write_bytes(b"mine")
    error = await failure(MODEL, tmp_path)
    assert error.code == "conflict"
    assert (tmp_path / "tiny.gguf").read_bytes() == b"mine"
    assert hub.ranges() == []


async def test_every_part_of_a_split_model_is_fetched(
    hub: FakeHub, tmp_path: Path, gguf_bytes: bytes
) -> None:
    for number in (1, 2):
        hub.files[f"owner/big-GGUF/q4/big-{number:05d}-of-00002.gguf"] = gguf_bytes
    told = await fetched("hf:owner/big-GGUF/q4/big-00001-of-00002.gguf", tmp_path)
    assert told[-1].status == "success"
    assert left_over(tmp_path) == ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]
    assert max(one.completed or 0 for one in told) == 2 * len(gguf_bytes)
