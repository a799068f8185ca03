"""How a node becomes part of a cluster, and how it stops being one."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest

from common.tls import short_fingerprint
from tests.processes import Program
from tests.service.lan.lan import LanMaster, lan_master, lan_node, refused
from tests.standin import StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_node_joins_serves_and_comes_back_elsewhere_without_a_token(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    token = await master.token()
    joining = ("--join", master.url, "--token", token, "--host", "0.0.0.0")
    async with lan_node(tmp_path / "pc2", *joining, ollama=standin.base_url) as node:
        assert node.url.startswith("https://")
        seen = await master.until("pc2", "healthy")
        assert seen["url"] == node.url
        answer = await master.admin.post(
            "/v1/chat/completions", json={"model": "m1", "messages": [{"role": "user", "content": "Hello?"}]}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
        first = node.url
    kept = tmp_path / "pc2" / "node.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    await master.until("pc2", "unreachable")
    async with lan_node(tmp_path / "pc2", ollama=standin.base_url) as node:
        assert node.url != first
        assert (await master.until("pc2", "healthy"))["url"] == node.url
    assert (await master.admin.delete("/api/cluster/workers/pc2")).status_code == 204


async def test_a_token_works_once(master: LanMaster, tmp_path: Path) -> None:
    token = await master.token()
    joining = ("--join", master.url, "--token", token, "--host", "0.0.0.0")
    async with lan_node(tmp_path / "first", *joining, name="first"):
        told = await refused(tmp_path / "second", *joining, "--name", "second")
    assert "council worker token" in told
    assert "second" not in await master.workers()
    assert not (tmp_path / "second" / "node.json").exists()
    assert (await master.admin.delete("/api/cluster/workers/first")).status_code == 204


async def test_a_token_ends(master: LanMaster, tmp_path: Path) -> None:
    token = await master.token(ttl_s=1)
    await asyncio.sleep(1.1)  # the claim is about this time
    told = await refused(tmp_path / "late", "--join", master.url, "--token", token, "--host", "0.0.0.0")
    assert "too old" in told


async def test_a_made_up_token_opens_nothing(master: LanMaster, tmp_path: Path) -> None:
    _, _, fingerprint = (await master.token()).partition(".")
    told = await refused(
        tmp_path / "liar", "--join", master.url, "--token", f"lct_made-up.{fingerprint}", "--host", "0.0.0.0"
    )
    assert "council worker token" in told


async def test_a_taken_name_is_refused_and_burns_no_token(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    first, second = await master.token(), await master.token()
    here = ("--join", master.url, "--host", "0.0.0.0")
    async with lan_node(tmp_path / "a", *here, "--token", first, name="twin", ollama=standin.base_url):
        await master.until("twin", "healthy")
        told = await refused(tmp_path / "b", *here, "--token", second, "--name", "twin")
        assert "another --name" in told
        async with lan_node(tmp_path / "c", *here, "--token", second, name="other", ollama=standin.base_url):
            await master.until("other", "healthy")
    for name in ("twin", "other"):
        assert (await master.admin.delete(f"/api/cluster/workers/{name}")).status_code == 204


async def test_a_removed_node_is_no_friend_any_more(master: LanMaster, tmp_path: Path) -> None:
    token = await master.token()
    joining = ("--join", master.url, "--token", token, "--host", "0.0.0.0")
    async with lan_node(tmp_path / "gone", *joining, name="gone"):
        await master.until("gone", "healthy")
        key = json.loads((tmp_path / "gone" / "node.json").read_text())["key"]
        async with master.client(key) as as_node:
            assert (await as_node.post("/api/cluster/renew", json={"port": 1})).status_code == 200
            assert (await as_node.get("/api/cluster/workers")).status_code == 401
            await master.admin.delete("/api/cluster/workers/gone")
            assert (await as_node.post("/api/cluster/renew", json={"port": 1})).status_code == 401
    assert "gone" not in await master.workers()


@pytest.mark.parametrize("own", [None, "a-key-of-the-node-itself"], ids=["the master's key", "and its own"])
async def test_the_key_of_a_removed_node_opens_the_node_no_more(
    master: LanMaster, standin: StandInOllama, tmp_path: Path, own: str | None
) -> None:
    joining = ("--join", master.url, "--token", await master.token(), "--host", "0.0.0.0")
    env = {"COUNCIL_NODE_KEY": own} if own else {}
    call = {"model": "m1", "prompt": "x", "stream": False}
    async with (
        lan_node(tmp_path / "left", *joining, name="left", ollama=standin.base_url, env=env) as node,
        httpx.AsyncClient(base_url=node.url, verify=False, trust_env=False) as client,
    ):

        async def status(key: str | None) -> int:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return (await client.post("/api/generate", json=call, headers=headers)).status_code

        await master.until("left", "healthy")
        key = json.loads((tmp_path / "left" / "node.json").read_text())["key"]
        assert [await status(one) for one in (key, None)] == [200, 401]
        assert (await master.admin.delete("/api/cluster/workers/left")).status_code == 204
        assert [await status(one) for one in (key, None)] == [401, 401]
        if own is not None:
            assert await status(own) == 200


async def membership_of(node: Program, within_s: float = 15.0) -> str:
    """What the node's own health says of its removal, once it does."""
    async with httpx.AsyncClient(verify=False, trust_env=False) as anybody, asyncio.timeout(within_s):
        while True:
            health = (await anybody.get(f"{node.url}/health")).json()
            if "membership" in health["checks"]:
                assert health["status"] != "healthy"
                return str(health["checks"]["membership"])
            await asyncio.sleep(0.1)


async def test_a_removed_node_hears_of_it_says_so_and_joins_anew(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    folder = tmp_path / "back"
    joining = ("--join", master.url, "--host", "0.0.0.0")

    def node(*arguments: str) -> AbstractAsyncContextManager[Program]:
        return lan_node(folder, *arguments, name="back", ollama=standin.base_url)

    async with node(*joining, "--token", await master.token()) as running:
        await master.until("back", "healthy")
        assert (await master.admin.delete("/api/cluster/workers/back")).status_code == 204
        assert "council node start --join" in await membership_of(running, within_s=1)
        assert "removed from its cluster" in running.log.read_text()
        assert not (folder / "node.json").exists()
        assert (folder / "node.removed.json").exists()
    async with node(*joining, "--token", await master.token()):
        await master.until("back", "healthy")
    # It is away while it is removed, and hears of it when it tells where it is.
    assert (await master.admin.delete("/api/cluster/workers/back")).status_code == 204
    async with node() as running:
        assert "removed by the master" in await membership_of(running)
        async with asyncio.timeout(5):  # it says so first, and the file follows
            while (folder / "node.json").exists():  # noqa: ASYNC110 - another process moves it
                await asyncio.sleep(0.01)


async def test_a_node_follows_its_master_to_another_address_without_a_token(
    standin: StandInOllama, tmp_path: Path
) -> None:
    folder = tmp_path / "n"
    async with lan_master(tmp_path / "m") as master:
        joining = ("--join", master.url, "--token", await master.token(), "--host", "0.0.0.0")
        async with lan_node(folder, *joining, name="mover", ollama=standin.base_url):
            await master.until("mover", "healthy")
    async with lan_master(tmp_path / "m") as moved:
        assert moved.url != master.url
        here = ("--join", moved.url, "--host", "0.0.0.0")
        async with lan_node(folder, *here, name="mover", ollama=standin.base_url):
            await moved.until("mover", "healthy")
        assert json.loads((folder / "node.json").read_text())["master"] == moved.url
        # Another master's address gets neither its key nor its trust.
        async with lan_master(tmp_path / "other") as other:
            told = await refused(folder, "--join", other.url, "--host", "0.0.0.0")
            assert "takes a token" in told
            elsewhere = ("--join", other.url, "--token", await other.token(), "--host", "0.0.0.0")
            async with lan_node(folder, *elsewhere, name="mover", ollama=standin.base_url):
                await other.until("mover", "healthy")


async def test_a_node_is_listed_in_the_settings_with_key_and_fingerprint(
    standin: StandInOllama, tmp_path: Path
) -> None:
    async with lan_node(tmp_path / "own", "--host", "0.0.0.0", name="own", ollama=standin.base_url) as node:
        key = json.loads((tmp_path / "own" / "node.json").read_text())["key"]
        fingerprint = node.log.read_text().partition("--fingerprint ")[2].split()[0]
        listed = f"own={node.url}#{key}@sha256:{fingerprint}"
        async with lan_master(tmp_path / "m", env={"COUNCIL_NODES": listed}) as master:
            await master.until("own", "healthy")


async def test_a_node_is_added_by_key_and_fingerprint(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    async with lan_node(tmp_path / "own", "--host", "0.0.0.0", name="own", ollama=standin.base_url) as node:
        made = json.loads((tmp_path / "own" / "node.json").read_text())
        told = node.log.read_text()
        fingerprint = told.partition("--fingerprint ")[2].split()[0]
        body = {"url": node.url, "name": "own", "key": made["key"]}
        wrong = {**body, "fingerprint": "00" * 32}
        for given, code in ((body, "invalid_request"), (wrong, "untrusted_peer")):
            answer = await master.admin.post("/api/cluster/workers", json=given)
            assert answer.json()["code"] == code, answer.text
        assert fingerprint in answer.json()["detail"]
        answer = await master.admin.post(
            "/api/cluster/workers", json={**body, "key": "k" * 20, "fingerprint": fingerprint}
        )
        assert answer.status_code == 422
        answer = await master.admin.post("/api/cluster/workers", json={**body, "fingerprint": fingerprint})
        assert (answer.status_code, answer.json()["state"]) == (201, "healthy")
    await master.admin.delete("/api/cluster/workers/own")


async def test_a_master_that_restarts_finds_its_nodes_and_they_find_it(
    standin: StandInOllama, tmp_path: Path
) -> None:
    async with lan_master(tmp_path / "m") as master:
        token = await master.token()
        port = master.url.rsplit(":", 1)[-1]
        node_folder = tmp_path / "n"
        joining = ("--join", master.url, "--token", token, "--host", "0.0.0.0")
        async with lan_node(node_folder, *joining, ollama=standin.base_url):
            await master.until("pc2", "healthy")
            await master.program.stop()
            async with lan_master(tmp_path / "m", "--port", port) as again:
                assert again.authority == master.authority
                await again.until("pc2", "healthy")


async def test_a_token_of_another_authority_sends_nothing(master: LanMaster, tmp_path: Path) -> None:
    secret, _, _ = (await master.token()).partition(".")
    foreign = f"{secret}.{short_fingerprint('ab' * 32)}"
    told = await refused(tmp_path / "n", "--join", master.url, "--token", foreign, "--host", "0.0.0.0")
    assert "is not the master that made this token" in told
    # It was not shown to whoever answered: it still works.
    joining = ("--join", master.url, "--token", secret + "." + (await master.token()).partition(".")[2])
    async with lan_node(tmp_path / "n", *joining, "--host", "0.0.0.0", name="late"):
        await master.until("late", "healthy")
    await master.admin.delete("/api/cluster/workers/late")
