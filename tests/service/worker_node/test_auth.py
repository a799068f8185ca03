"""Who may use a node: every route asks, but `/health`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.service.worker_node.nodes import Node, NodeProcess, node_in_process
from tests.standin.model import StandInModel
from tests.standin.ollama import StandInOllama

KEY = "lc_0123456789abcdef0123456789abcdef"
ROUTES = [
    ("POST", "/api/generate"),
    ("POST", "/api/generate/batch"),
    ("POST", "/api/embed"),
    ("POST", "/api/models/load"),
    ("POST", "/api/models/unload"),
    ("POST", "/api/models/pull"),
    ("GET", "/health/system"),
    ("GET", "/health/ollama"),
    ("GET", "/health/models"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("GET", "/health/"),
    ("GET", "//health"),
    ("GET", "/nothing/here"),
    ("OPTIONS", "/api/generate"),
]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with (
        StandInOllama([StandInModel("m:latest", resident=True)]) as ollama,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=ollama.base_url, key=KEY) as running,
    ):
        yield running


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer", f"Bearer {KEY[:-1]}"]
)
async def test_every_route_but_health_needs_the_key(node: Node, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    async with httpx.AsyncClient(base_url=node.url, headers=headers, trust_env=False) as stranger:
        for method, path in ROUTES:
            response = await stranger.request(method, path, json={"model": "m", "prompt": "x"})
            assert (response.status_code, response.json()["code"]) == (401, "unauthorized"), path
            assert response.headers["www-authenticate"] == "Bearer"
            assert KEY not in response.text


async def test_the_key_opens_the_node(node: Node) -> None:
    assert (await node.whole(model="m", prompt="x")).status_code == 200
    assert (await node.client.get("/health/models")).status_code == 200
    assert (await node.client.get("/nothing/here")).status_code == 404


async def test_health_needs_no_key_and_tells_no_secret(node: Node) -> None:
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as stranger:
        response = await stranger.get("/health")
    assert response.status_code == 200
    assert set(response.json()) == {
        "status", "role", "protocol", "name", "version", "uptime_s", "checks",
    }  # fmt: skip
    assert "127.0.0.1" not in response.text


async def test_a_node_without_a_key_does_not_answer_web_pages(tmp_path: Path) -> None:
    async with (
        StandInOllama([StandInModel("m:latest", resident=True)]) as ollama,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=ollama.base_url) as node,
    ):
        response = await node.client.post(
            "/api/generate", json={"model": "m", "prompt": "x"}, headers={"origin": "http://example.org"}
        )
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
        assert (await node.whole(model="m", prompt="x")).status_code == 200


async def test_a_node_without_a_key_answers_to_no_foreign_host_name(tmp_path: Path) -> None:
    """A page whose name was pointed at this machine (DNS rebinding) reads nothing, not even by GET."""
    async with (
        StandInOllama([StandInModel("m:latest", resident=True)]) as ollama,
        node_in_process(tmp_path, engine="ollama", ollama_base_url=ollama.base_url) as node,
    ):
        port = httpx.URL(node.url).port
        for host in (
            f"evil.example:{port}",
            "192.168.1.9",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[",
            "",
        ):
            for method, path in [*ROUTES, ("GET", "/health")]:
                refused = await node.client.request(method, path, headers={"host": host})
                assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), (host, path)
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
            assert (await node.client.get("/health/models", headers={"host": host})).status_code == 200, host


def test_an_open_node_on_the_lan_says_so_and_answers_to_names_of_the_lan_only(tmp_path: Path) -> None:
    with NodeProcess(tmp_path, "--host", "0.0.0.0", "--engine", "embedded", "--insecure-lan") as node:
        url = node.ready()["url"]
        assert url.startswith("http://")
        for host, status in (
            ("evil.example", 403),
            ("pc2.lan", 200),
            ("pc2", 200),
            ("192.168.1.20:8001", 200),
            ("[fd00::1]", 200),
        ):
            got = httpx.get(f"{url}/health/models", headers={"host": host}, trust_env=False)
            assert got.status_code == status, host
        node.process.terminate()
        assert node.process.wait(20) == 0
        assert "--insecure-lan" in node.errors()


def test_a_node_without_a_key_makes_one_for_other_machines_and_tells_how_it_is_added(tmp_path: Path) -> None:
    with NodeProcess(tmp_path, "--host", "0.0.0.0", "--engine", "embedded") as node:
        url = node.ready()["url"]
        assert url.startswith("https://")
        made = json.loads((tmp_path / "node.json").read_text())
        assert (tmp_path / "node.json").stat().st_mode & 0o777 == 0o600
        for key, status in ((None, 401), ("wrong" * 5, 401), (made["key"], 200)):
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            got = httpx.get(f"{url}/health/models", headers=headers, verify=False, trust_env=False)
            assert got.status_code == status
        node.process.terminate()
        assert node.process.wait(20) == 0
        told = node.errors()
    assert f"--key {made['key']} --fingerprint " in told
    assert "council worker add https://" in told


def test_a_weak_key_is_refused(tmp_path: Path) -> None:
    with NodeProcess(tmp_path, "--host", "0.0.0.0", COUNCIL_NODE_KEY="short") as node:
        assert node.process.wait(20) == 1
        assert "at least 16 characters" in node.errors()


async def test_a_guesser_waits_longer_and_longer_and_the_master_does_not(node: Node) -> None:
    assert (await node.client.get("/health/models")).status_code == 200
    async with httpx.AsyncClient(base_url=node.url, trust_env=False) as stranger:
        codes = [
            (await stranger.get("/metrics", headers={"authorization": f"Bearer guess-{number}"})).status_code
            for number in range(7)
        ]
        assert codes == [401] * 5 + [429] * 2
        late = await stranger.get("/metrics", headers={"authorization": "Bearer another"})
        assert int(late.headers["retry-after"]) >= 1
    assert (await node.client.get("/health/models")).status_code == 200
