"""The words that people type to let PCs and people in, and out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common.addresses import lan_addresses
from common.security import is_loopback
from tests import processes, zygote
from tests.service.lan.lan import KEY, QUIET, LanMaster, lan_node
from tests.standin import StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Said:
    code: int
    out: str
    err: str


async def council(*words: str, **env: str) -> Said:
    """Run the command as on another PC: it knows nothing but what `env` tells."""
    done = await asyncio.to_thread(
        zygote.run, "master.cli", words, env=processes.clean_environment({**QUIET, **env})
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


def here(master: LanMaster, key: str = KEY) -> dict[str, str]:
    """The settings of a terminal on the master's own PC."""
    return {"COUNCIL_URL": master.url, "COUNCIL_KEY": key, "COUNCIL_DATA_DIR": str(master.folder)}


async def test_the_line_that_worker_token_prints_is_all_that_a_new_pc_types(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    told = await council("worker", "token", "--ttl", "2m", **here(master))
    assert told.code == 0, told.err
    words = shlex.split(told.out)
    assert words[:3] == ["council", "node", "start"]
    # The address is one that other PCs reach, where this machine is in a network.
    printed = urlsplit(words[words.index("--join") + 1])
    assert printed.port == urlsplit(master.url).port
    assert printed.hostname in (lan_addresses() or ["127.0.0.1"])
    assert ("works here alone" in told.err) == is_loopback(str(printed.hostname))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "master.cli", *words[1:],
        "--host", "0.0.0.0", "--port", "0", "--name", "typed", "--data-dir", str(tmp_path / "pc2"),
        cwd=processes.ROOT,
        env=processes.clean_environment({**QUIET, "OLLAMA_BASE_URL": standin.base_url}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await master.until("typed", "healthy")
        listed = await council("worker", "list", "--json", **here(master))
        assert [one["name"] for one in json.loads(listed.out)["workers"]] == ["typed"]
        assert (await council("worker", "remove", "typed", **here(master))).code == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()


async def test_a_person_gets_a_key_and_loses_it(master: LanMaster, tmp_path: Path) -> None:
    made = await council("keys", "create", "ann", **here(master))
    assert made.code == 0, made.err
    key = made.out.strip()
    exported = await council("config", "export-ca", COUNCIL_DATA_DIR=str(master.folder))
    authority = tmp_path / "council-ca.pem"
    authority.write_text(exported.out)
    away = {
        "COUNCIL_URL": master.url,
        "COUNCIL_KEY": key,
        "COUNCIL_DATA_DIR": str(tmp_path / "elsewhere"),
        "COUNCIL_CA": str(authority),
    }
    assert (await council("sessions", "list", **away)).code == 0
    refused = await council("keys", "list", **away)
    assert (refused.code, "administrator" in refused.err) == (1, True)
    untrusting = await council("sessions", "list", **{**away, "COUNCIL_CA": ""})
    assert (untrusting.code, "export-ca" in untrusting.err) == (1, True)
    assert "ann" in (await council("keys", "list", **here(master))).out
    assert (await council("keys", "revoke", "ann", **here(master))).code == 0
    assert (await council("sessions", "list", **away)).code == 1
    again = await council("keys", "revoke", "ann", **here(master))
    assert (again.code, "no key named ann" in again.err) == (1, True)


async def test_a_master_named_without_https_is_found_or_told_to_speak_it(master: LanMaster) -> None:
    address = master.url.removeprefix("https://")
    assert (await council("worker", "list", **{**here(master), "COUNCIL_URL": address})).code == 0
    plain = await council("worker", "list", **{**here(master), "COUNCIL_URL": f"http://{address}"})
    assert plain.code == 1
    assert f"write https://{address}" in plain.err


async def test_a_name_that_cannot_be_a_keys_is_refused_in_words(master: LanMaster) -> None:
    told = await council("keys", "create", "a b/c", **here(master))
    assert told.code != 0
    assert "'a b/c' is no name for a key" in told.err
    assert "pattern" not in told.err


@pytest.mark.parametrize("ttl", ["", "15", "-1m", "1y", "8d"])
async def test_an_odd_length_of_time_is_refused(master: LanMaster, ttl: str) -> None:
    refused = await council("worker", "token", "--ttl", ttl, **here(master))
    assert refused.code == 2
    assert "ttl_s" not in refused.err


async def test_without_an_authority_there_is_none_to_export(tmp_path: Path) -> None:
    told = await council("config", "export-ca", COUNCIL_DATA_DIR=str(tmp_path))
    assert (told.code, told.out, "--host 0.0.0.0" in told.err) == (1, "", True)


async def test_the_doctor_knows_the_programs_of_this_pc_over_tls(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    join = ("--host", "0.0.0.0", "--join", master.url, "--token", await master.token())
    async with lan_node(tmp_path / "pc2", *join, ollama=standin.base_url) as node:
        await master.until("pc2", "healthy")
        ports = {"COUNCIL_PORT": str(urlsplit(master.url).port), "COUNCIL_NODE_PORT": _port(node.url)}
        told = await council("doctor", "--json", **ports, **here(master))
        found = {one["what"]: (one["level"], one["told"]) for one in json.loads(told.out)["findings"]}
        for port, role in zip(ports.values(), ("the master: process", "the node: process"), strict=True):
            assert found[f"port {port}"][0] == "ok"
            assert found[f"port {port}"][1].startswith(role)
        assert found["node here"] == ("ok", "pc2 0.1.0: healthy")
        assert (await council("worker", "remove", "pc2", **here(master))).code == 0
        removed = await council("doctor", **ports, **here(master))
    [line] = [line for line in removed.out.splitlines() if "node here" in line]
    assert line.startswith("warn")
    assert "removed by the master" in line


def _port(url: str) -> str:
    return str(urlsplit(url).port)
