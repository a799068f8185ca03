"""Off loopback nothing but health answers without the right key: every route and socket there is, walked."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from common.master_settings import MasterSettings
from master.app import create_app
from tests.service.lan.lan import KEY, LanMaster, lan_node
from worker_node.app import _fastapi
from worker_node.call import CallLimits
from worker_node.membership import Belonging
from worker_node.service import NodeService

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN = {"/health", "/health/authority", "/", "/api/login", "/assets/x"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def walked(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(kind, path) of every route, however deep it is included."""
    for route in routes:
        router = getattr(route, "original_router", route)
        inner = getattr(router, "routes", None)
        if inner:
            yield from walked(inner, prefix)
        elif hasattr(route, "path"):
            kind = "websocket" if "WebSocket" in type(route).__name__ else "http"
            yield kind, re.sub(r"{[^}]*}", "x", prefix + route.path)


def master_routes() -> set[tuple[str, str]]:
    return set(walked(create_app(MasterSettings(host="0.0.0.0", key=KEY)).routes))


async def test_the_walk_sees_every_kind_of_route() -> None:
    found = master_routes()
    assert ("websocket", "/api/council/sessions/x/events") in found
    for path in ("/api/council/sessions", "/v1/chat/completions", "/metrics", "/openapi.json", "/api/keys"):
        assert ("http", path) in found
    assert len(found) > 30


async def test_no_route_of_a_master_answers_without_the_right_key(master: LanMaster) -> None:
    async with master.client(None) as nobody, master.client("lc_wrong-and-always-the-same") as wrong:
        for kind, path in sorted(master_routes()):
            if kind == "websocket":
                await assert_socket_is_closed(master, path)
                continue
            for method in METHODS:
                if path in OPEN:
                    continue
                for stranger in (nobody, wrong):
                    answer = await stranger.request(method, path, json={})
                    assert answer.status_code == 401, (method, path, answer.text)
                    assert answer.headers["content-type"].startswith("application/problem+json")
        for path in (
            "/health/",
            "//health",
            "/api/login/",
            "/assets",
            "/nothing",
            "/health/system",
            "/HEALTH",
        ):
            assert (await nobody.get(master.url + path)).status_code == 401, path
        health = await nobody.get("/health")
        assert set(health.json()) == {"status", "role", "protocol", "name", "version", "uptime_s", "checks"}


@pytest.mark.parametrize("segment", ["..", "%2e%2e", "%2E.", "%2e"])
@pytest.mark.parametrize("slash", ["/", "%2f", "%2F"])
async def test_no_other_spelling_of_a_path_opens_what_the_path_does_not(
    master: LanMaster, segment: str, slash: str
) -> None:
    """Through folders that are open, or people's: with dots, which are refused, and with slashes too many."""
    person = await master.create_key("ann")
    eve = json.dumps({"name": "eve", "role": "admin"})
    for folder in ("/assets", "/health", "/api/login", "/api/council/sessions/x", "/v1", "/api/keys/y"):
        up = f"{slash}{segment}" * folder.count("/")
        for key in (person, None):
            path = f"{folder}{up}/api/keys"
            assert await status_of(master, "POST", path, key, eve) == 422, (path, key)
        for path in (
            f"{folder}{slash}{slash}api{slash}keys",
            f"/{folder}/api/keys",
            f"/{slash}api{slash}keys",
        ):
            assert await status_of(master, "POST", path, person, eve) in (403, 404, 405, 422), path
            assert await status_of(master, "POST", path, None, eve) in (401, 404, 405, 422), path
    keys = (await master.admin.get("/api/keys")).json()["keys"]
    assert [one["name"] for one in keys] == ["ann"]
    await master.admin.delete("/api/keys/ann")


async def status_of(master: LanMaster, method: str, path: str, key: str | None, body: str) -> int:
    """Of a path that is sent as it is written: other clients would shorten it."""
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    url = httpx.URL(master.url)

    def send() -> int:
        context = ssl.create_default_context(cadata=master.authority)
        connection = http.client.HTTPSConnection(url.host, url.port, context=context, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    return await asyncio.to_thread(send)


async def assert_socket_is_closed(master: LanMaster, path: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(
            master.url.replace("https", "wss") + path,
            ssl=ssl.create_default_context(cadata=master.authority),
            proxy=None,
        ):
            pass
    assert refused.value.response.status_code == 403


async def test_joining_asks_for_a_token_or_a_nodes_key_and_takes_nothing_else(master: LanMaster) -> None:
    body = {"name": "n", "port": 9}
    for client in (master.admin,):
        assert (await client.post("/api/cluster/join", json=body)).status_code == 401
        assert (await client.post("/api/cluster/renew", json=body)).status_code == 401
    token = await master.token()
    async with master.client(token) as newcomer:
        for path in ("/api/council/sessions", "/api/cluster/workers", "/api/keys"):
            assert (await newcomer.get(path)).status_code == 401


async def test_no_route_of_a_node_answers_without_the_right_key(tmp_path: Path) -> None:
    service = NodeService(name="n", engines=[], limits=CallLimits(1.0, 1.0), max_loaded_models=1, max_queue=1)
    routes = set(walked(_fastapi(service, tmp_path, (), Belonging(tmp_path, None)).routes))
    assert {("http", "/api/embed"), ("http", "/metrics"), ("http", "/api/models/pull")} <= routes
    paths = {path for _, path in routes} | {"/api/generate", "/api/generate/batch", "/nothing", "/health/"}
    async with lan_node(tmp_path / "n", "--host", "0.0.0.0") as node:
        key = json.loads((tmp_path / "n" / "node.json").read_text())["key"]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with httpx.AsyncClient(base_url=node.url, verify=context, trust_env=False) as stranger:
            for given in (None, key[:-1]):
                stranger.headers.pop("authorization", None)
                if given is not None:
                    stranger.headers["authorization"] = f"Bearer {given}"
                for path in sorted(paths - {"/health"}):
                    for method in METHODS:
                        answer = await stranger.request(method, path, json={})
                        assert answer.status_code == 401, (method, path)
            health = await stranger.get("/health")
            assert set(health.json()) == {
                "status", "role", "protocol", "name", "version", "uptime_s", "checks",
            }  # fmt: skip
