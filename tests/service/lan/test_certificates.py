"""A certificate that is valid, and somebody else's, opens nothing: neither to the master nor to a node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from common.certificates import Authority, certificate_request, new_private_key
from common.tls import MASTER_NAME, ReplacedCertificate, Trust, node_name, server_context
from tests.processes import Program
from tests.service.lan.lan import LanMaster, lan_master, lan_node, refused
from tests.standin import StandInOllama
from worker_node import joining, membership, whereabouts

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def listening(chain: str, folder: Path, port: int = 0) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A TLS server of a stranger; its port, and what it was sent."""
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.read(65536))
        finally:
            writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", port, ssl=server_context(chain, folder))
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def until_error(master: LanMaster, name: str, words: str) -> None:
    """Wait until the master says that of a node."""
    async with asyncio.timeout(20):
        while True:
            if words in str((await master.workers())[name]["error"]):
                return
            await asyncio.sleep(0.1)


async def until_logged(program: Program, words: str) -> None:
    """Wait until a program has logged that."""
    async with asyncio.timeout(20):
        while True:
            if words in program.log.read_text():
                return
            await asyncio.sleep(0.1)


def chain_of(authority: Authority, *names: str) -> str:
    return authority.issue_with_key([*names, "127.0.0.1"], datetime.now(UTC))


async def test_a_master_gives_its_key_to_no_node_of_another_authority(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    joining = ("--join", master.url, "--token", await master.token(), "--host", "0.0.0.0")
    async with lan_node(tmp_path / "n", *joining, name="prey", ollama=standin.base_url) as node:
        await master.until("prey", "healthy")
        port = int(node.url.rsplit(":", 1)[-1])
    stranger = Authority.make("stranger", now=datetime.now(UTC))
    async with listening(chain_of(stranger, node_name("prey")), tmp_path, port) as (_, heard):
        await until_error(master, "prey", "not of this cluster")
        assert heard in ([], [b""] * len(heard))
    await master.admin.delete("/api/cluster/workers/prey")


async def test_a_node_of_the_cluster_cannot_pass_for_another_one(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    ports = {}
    for name in ("good", "bad"):
        joining = ("--join", master.url, "--token", await master.token(), "--host", "0.0.0.0")
        async with lan_node(tmp_path / name, *joining, name=name, ollama=standin.base_url) as node:
            await master.until(name, "healthy")
            ports[name] = int(node.url.rsplit(":", 1)[-1])
    own = json.loads((tmp_path / "bad" / "node.json").read_text())
    async with listening(own["private_key"] + own["certificate"], tmp_path, ports["good"]) as (_, heard):
        await until_error(master, "good", "not of this cluster")
        assert heard in ([], [b""] * len(heard))
    for name in ("good", "bad"):
        await master.admin.delete(f"/api/cluster/workers/{name}")


async def test_a_node_tells_its_key_to_no_master_of_another_authority(
    standin: StandInOllama, tmp_path: Path
) -> None:
    async with lan_master(tmp_path / "m") as master:
        port = int(master.url.rsplit(":", 1)[-1])
        joining = ("--join", master.url, "--token", await master.token(), "--host", "0.0.0.0")
        async with lan_node(tmp_path / "n", *joining, ollama=standin.base_url):
            await master.until("pc2", "healthy")
            member = json.loads((tmp_path / "n" / "node.json").read_text())
    stranger = Authority.make("stranger", now=datetime.now(UTC))
    own_chain = member["private_key"] + member["certificate"]
    for chain in (chain_of(stranger, MASTER_NAME), own_chain):
        async with listening(chain, tmp_path, port) as (_, heard):
            async with lan_node(tmp_path / "n", ollama=standin.base_url) as node:
                await until_logged(node, "is not this node's master")
            assert member["key"].encode() not in b"".join(heard)
            node.log.write_text("")


async def test_a_certificate_request_decides_nothing_about_names(master: LanMaster) -> None:
    request = certificate_request(new_private_key())
    async with master.client(await master.token()) as newcomer:
        answer = await newcomer.post(
            "/api/cluster/join", json={"name": "x" * 20, "port": 9, "request": request}
        )
    assert answer.status_code == 201
    await master.admin.delete(f"/api/cluster/workers/{'x' * 20}")
    for bad in ("", "not a request", new_private_key()):
        token = await master.token()
        async with master.client(token) as newcomer:
            answer = await newcomer.post("/api/cluster/join", json={"name": "y", "port": 9, "request": bad})
            assert answer.status_code == 422, (bad, answer.text)


async def test_browsers_may_be_shown_another_certificate_while_nodes_see_the_clusters(
    standin: StandInOllama, tmp_path: Path
) -> None:
    company = Authority.make("company", now=datetime.now(UTC))
    chain = chain_of(company, "localhost")
    end = "-----END PRIVATE KEY-----\n"
    key, _, certificates = chain.partition(end)
    (tmp_path / "key.pem").write_text(key + end)
    (tmp_path / "cert.pem").write_text(certificates)
    env = {"COUNCIL_TLS_CERT": str(tmp_path / "cert.pem"), "COUNCIL_TLS_KEY": str(tmp_path / "key.pem")}
    async with lan_master(tmp_path / "m", env=env) as master:
        context = ssl.create_default_context(cadata=company.certificate)
        async with httpx.AsyncClient(verify=context, trust_env=False) as browser:
            assert (await browser.get(f"{master.url}/health")).status_code in (200, 503)
            browser.headers["authorization"] = master.admin.headers["authorization"]
            token = (await browser.post(f"{master.url}/api/cluster/tokens", json={})).json()["token"]
            joining = ("--join", master.url, "--token", token, "--host", "0.0.0.0")
            async with lan_node(tmp_path / "n", *joining, ollama=standin.base_url) as node:
                await until_logged(node, "part of the cluster")


async def test_the_token_in_clear_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    told = await refused(tmp_path / "n", "--join", "http://192.0.2.1:8000", "--token", "lct_x")
    assert "in the clear" in told


async def test_a_node_that_nobody_could_reach_does_not_join(tmp_path: Path) -> None:
    told = await refused(
        tmp_path / "n", "--host", "127.0.0.1", "--join", "https://192.0.2.1:8000", "--token", "lct_x"
    )
    assert "--host 0.0.0.0" in told


async def test_a_node_takes_its_new_certificates_into_use_while_it_serves(
    master: LanMaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whereabouts, "EVERY_S", 0.1)  # an hour
    monkeypatch.setattr(joining, "_LOOK_EVERY_S", 0.05)
    one = await joining.join(master.url, await master.token(), name="hourly", port=9, tls=True)
    served = ReplacedCertificate(one.chain, tmp_path)
    trust = Trust.of_authority(master.authority, node_name("hourly"))

    async def hear(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def shown(port: int) -> bytes:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust.context, server_hostname=trust.server_name
        )
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return found

    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=served.context)
    telling = asyncio.create_task(joining.stay_known(one, 9, membership.Belonging(tmp_path, one), served))
    try:
        async with server, asyncio.timeout(20):
            seen: set[bytes] = set()
            while len(seen) < 3:
                seen.add(await shown(server.sockets[0].getsockname()[1]))
        kept = membership.load(tmp_path)
        assert kept is not None
        assert kept.certificate != one.certificate
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await master.admin.delete("/api/cluster/workers/hourly")
