"""`council models get`: through a master, and on a machine where none runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import FakeHub, serving
from tests.random_weights import write_noise
from tests.service.cli.command import ROOT, Council
from tests.service.cli.fake_master import FakeMaster

PLACE = "owner/tiny-GGUF/tiny.gguf"
# No master there, whatever runs on the usual port.
ALONE: dict[str, Any] = {"COUNCIL_PORT": "9"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    write_noise(tmp_path / "noise.gguf")
    with serving(FakeHub(files={PLACE: (tmp_path / "noise.gguf").read_bytes()})) as running:
        yield running


def test_without_a_master_the_file_goes_into_the_models_folder_here(council: Council, hub: FakeHub) -> None:
    done = council.run("models", "get", f"hf:{PLACE}", HF_ENDPOINT=hub.url, **ALONE)
    assert done.code == 0, done.err
    assert done.out == f"hf:{PLACE} is there\n"
    assert "licence" in done.err.splitlines()[0]
    assert (council.home / "data" / "models" / "tiny.gguf").read_bytes() == hub.files[PLACE]
    again = council.run("models", "get", f"hf:{PLACE}", "--json", HF_ENDPOINT=hub.url, **ALONE)
    assert json.loads(again.out)["status"] == "success"
    assert json.loads(again.out)["licence"]
    assert hub.ranges() == [None]


def test_offline_one_line_says_where_to_put_a_file(council: Council) -> None:
    failed = council.run("models", "get", "qwen2.5:0.5b", HF_ENDPOINT="http://127.0.0.1:9", **ALONE)
    assert failed.code == 1
    assert "no connection to http://127.0.0.1:9" in failed.err
    assert str(council.home / "data" / "models") in failed.err
    assert "Traceback" not in failed.err


def test_a_download_that_breaks_without_a_word_is_no_success(council: Council, hub: FakeHub) -> None:
    broken = council.home / "site"
    broken.mkdir()
    (broken / "huggingface_hub.py").write_text("raise RuntimeError('half an installation')\n")
    failed = council.run(
        "models", "get", f"hf:{PLACE}", HF_ENDPOINT=hub.url, PYTHONPATH=f"{broken}{os.pathsep}{ROOT}", **ALONE
    )
    assert failed.code == 1
    assert failed.out == ""
    assert "exit code 1" in failed.err
    assert "RuntimeError: half an installation" in failed.err


def test_a_hub_that_states_no_checksum_is_refused_before_the_first_byte(
    council: Council, hub: FakeHub
) -> None:
    hub.told_sha256 = "5f3c-of-a-mirror"
    failed = council.run("models", "get", f"hf:{PLACE}", HF_ENDPOINT=hub.url, **ALONE)
    assert failed.code == 1
    assert f"{hub.url} states no SHA-256 of tiny.gguf" in failed.err
    assert hub.ranges() == []
    assert not (council.home / "data" / "models" / "tiny.gguf").exists()


@pytest.mark.parametrize("lines", [[], [{"worker": "pc1", "status": "pulling", "completed": 1, "total": 2}]])
def test_progress_that_ends_before_success_fails_the_command(
    council: Council, master: FakeMaster, lines: list[dict[str, Any]]
) -> None:
    master.pull_lines = lines
    failed = council.run("models", "get", "tinyllama", "--url", master.url)
    assert failed.code == 1
    assert failed.out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no signal for one process")
def test_ctrl_c_says_that_what_came_is_kept(council: Council, hub: FakeHub) -> None:
    hub.stop_after = 0
    command = council.start("models", "get", f"hf:{PLACE}", HF_ENDPOINT=hub.url, **ALONE)
    with command as process:
        assert hub.stopped.wait(30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"the same command goes on from there" in err
    assert b"Traceback" not in err


def test_an_unknown_name_lists_the_known_ones(council: Council) -> None:
    failed = council.run("models", "get", "gpt-5", **ALONE)
    assert failed.code == 1
    assert "qwen2.5:0.5b" in failed.err
    assert "hf:OWNER/REPO/FILE.gguf" in failed.err


def test_a_running_master_is_asked_for_an_embedded_node(council: Council, master: FakeMaster) -> None:
    assert council.run("models", "get", "tinyllama", "--to", "pc2", "--url", master.url).code == 0
    assert council.run("models", "pull", "tinyllama", "--all", "--url", master.url).code == 0
    assert master.pulled == [
        {"model": "tinyllama", "worker": "pc2", "embedded": True},
        {"model": "tinyllama", "all": True},
    ]


def test_one_node_that_fails_fails_the_command_and_is_named(council: Council, master: FakeMaster) -> None:
    master.pull_lines = [
        {"worker": "pc1", "status": "pulling", "completed": 1, "total": 2},
        {"worker": "pc2", "error": {"code": "node_unreachable", "detail": "pc2 does not answer"}},
        {"worker": "pc1", "status": "success"},
    ]
    told = council.run("models", "pull", "tinyllama", "--all", "--json", "--url", master.url)
    assert told.code == 1
    assert set(json.loads(told.out)["workers"]) == {"pc1", "pc2"}, "scripts hear which node has it"
    failed = council.run("models", "pull", "tinyllama", "--all", "--url", master.url)
    assert failed.code == 1
    assert "pc1: success" in failed.err.splitlines()
    assert "1 of 2 nodes do not have it: pc2: pc2 does not answer" in failed.err


def test_the_only_node_that_fails_is_named(council: Council, master: FakeMaster) -> None:
    told = {"code": "storage_full", "detail": "/models cannot be written: the disk is full"}
    master.pull_lines = [{"worker": "pc2", "error": told}]
    failed = council.run("models", "pull", "tinyllama", "--url", master.url)
    assert failed.code == 1
    assert "the disk is full (node pc2)" in failed.err


def test_a_node_and_all_of_them_is_wrong_usage(council: Council, master: FakeMaster) -> None:
    wrong = council.run("models", "pull", "tinyllama", "--all", "--worker", "pc2", "--url", master.url)
    assert wrong.code == 2
    assert master.pulled == []
