"""Programs of one LAN find each other by mDNS, and trust nothing that they find."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from common.discovery import Found, look, stay_announced
from common.tls import fingerprint_of
from tests import processes, zygote
from tests.service.lan.lan import KEY, lan_master, lan_node, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")
LOUD = {"COUNCIL_DISCOVERY": "true"}


async def multicast_works() -> bool:
    """Whether this machine's network carries mDNS at all; a container's may not."""
    announcing = asyncio.create_task(
        stay_announced(role="node", name=f"probe-{os.getpid()}", host="0.0.0.0", port=9, fingerprint=None)
    )
    try:
        return any(one.name == f"probe-{os.getpid()}" for one in await look("node", within_s=2.0))
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)


@pytest_asyncio.fixture(loop_scope="module", scope="module", autouse=True)
async def _network() -> None:
    if await multicast_works():
        return
    told = "no multicast here; on Linux: ip link set dev eth0 multicast on"
    if os.environ.get("CI") == "true":
        pytest.fail(told)
    pytest.skip(told)


async def found(role: Any, port: int) -> list[Found]:
    return [one for one in await look(role, within_s=2.0) if one.url.endswith(f":{port}")]


async def until_found(role: Any, port: int) -> Found:
    async with asyncio.timeout(20):
        while not (seen := await found(role, port)):
            continue
    return seen[0]


async def test_a_node_finds_its_master_by_the_token_alone(tmp_path: Path) -> None:
    async with lan_master(tmp_path / "m", "--name", "pc one", env=LOUD) as master:
        port = int(master.url.rsplit(":", 1)[-1])
        seen = await until_found("master", port)
        assert (seen.name, seen.url.partition(":")[0]) == ("pc one", "https")
        told = await refused(tmp_path / "n", "--join", "auto", env=LOUD)
        assert f"council node start --join {seen.url} --token" in told
        assert "council worker token" in told
        token = await master.token()
        async with lan_node(tmp_path / "n", "--join", "auto", "--token", token, name="found", env=LOUD):
            await master.until("found", "healthy")


async def test_an_impostor_that_announces_the_masters_fingerprint_gets_no_token(tmp_path: Path) -> None:
    async with lan_master(tmp_path / "true") as master, lan_master(tmp_path / "false") as impostor:
        token = await master.token()
        announcing = asyncio.create_task(
            stay_announced(
                role="master",
                name="impostor",
                host="0.0.0.0",
                port=int(impostor.url.rsplit(":", 1)[-1]),
                fingerprint=fingerprint_of(master.authority),
            )
        )
        try:
            await until_found("master", int(impostor.url.rsplit(":", 1)[-1]))
            told = await refused(tmp_path / "n", "--join", "auto", "--token", token, env=LOUD)
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)
        assert "is not the master that made this token" in told
        async with master.client(token) as newcomer:  # the token was shown to nobody: it still works
            answer = await newcomer.post("/api/cluster/join", json={"name": "x", "port": 9})
            assert answer.status_code == 201


async def test_a_node_of_no_cluster_says_which_master_it_found_and_joins_none(tmp_path: Path) -> None:
    async with lan_master(tmp_path / "m", "--name", "pc one", env=LOUD) as master:
        seen = await until_found("master", int(master.url.rsplit(":", 1)[-1]))
        told = (
            f"Found master pc one at {seen.url}: type `council worker token` there, and here `council node "
        )
        async with (
            lan_node(tmp_path / "quiet", name="quiet") as quiet,
            lan_node(tmp_path / "none", "--join", "none", name="none", env=LOUD) as none,
            lan_node(tmp_path / "lan", "--host", "0.0.0.0", name="lan", env=LOUD) as lan,
            lan_node(tmp_path / "bare", name="bare", env=LOUD) as bare,
        ):
            # Ready before it looked: the start waits for nobody.
            assert told not in bare.log.read_text()
            async with asyncio.timeout(20):
                for one in (bare, lan):
                    while told not in one.log.read_text():  # noqa: ASYNC110  # a log is no event of ours
                        await asyncio.sleep(0.05)
            assert not any(told in one.log.read_text() for one in (quiet, none))  # they began before
            assert await master.workers() == {}
            assert not (tmp_path / "bare" / "node.json").exists()


async def test_a_stranger_node_is_a_candidate_and_says_how_it_is_added(tmp_path: Path) -> None:
    async with (
        lan_master(tmp_path / "m", env=LOUD) as master,
        lan_node(tmp_path / "n", "--host", "0.0.0.0", name="stranger", env=LOUD) as node,
    ):
        port = int(node.url.rsplit(":", 1)[-1])
        seen = await until_found("node", port)
        assert seen.fingerprint is not None
        assert f"--fingerprint {seen.fingerprint}" in node.log.read_text()
        command = await asyncio.to_thread(
            zygote.run,
            "master.cli",
            ("worker", "list", "--discover", "--json", "--url", master.url),
            env=processes.clean_environment({"COUNCIL_KEY": KEY, "COUNCIL_DATA_DIR": str(master.folder)}),
        )
        assert command.returncode == 0
        candidates = json.loads(command.stdout)["candidates"]
        assert [one["fingerprint"] for one in candidates if one["url"] == seen.url] == [seen.fingerprint]
        assert await master.workers() == {}


async def test_who_serves_only_itself_or_was_told_to_be_silent_is_not_found(tmp_path: Path) -> None:
    async with (
        processes.master(tmp_path / "loopback", env=LOUD) as loopback,
        lan_master(tmp_path / "silent") as silent,
    ):
        for url in (loopback.url, silent.url):
            assert await found("master", int(url.rsplit(":", 1)[-1])) == []
