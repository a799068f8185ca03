"""Off loopback nothing but health, the page's own files and the log-in answers without a key."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from starlette.routing import BaseRoute, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from common.master_settings import MasterSettings
from master.app import create_app
from tests import processes, zygote
from tests.processes import Program, clean_environment

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "the key of the people of this house"
ID = "00000000-0000-4000-8000-000000000000"
_VALUES = {
    "session_id": ID,
    "archive_id": ID,
    "conversation_id": ID,
    "agent_id": "agent_1",
    "job_id": ID,
    "batch_id": ID,
    "name": "nobody",
    "path": "app.js",
}
# What is open to everybody: health, and what a browser needs before a person has logged in.
OPEN = re.compile(r"^(/|/health|/health/authority|/assets/.*|/api/login)$")
# What asks for a secret of its own, which is not the key of a person.
OF_NODES = re.compile(r"^/api/cluster/(join|renew)$")
# What only an administrator may do. A new route that changes something belongs here until somebody decides
# otherwise.
OF_ADMINISTRATORS = {
    ("POST", "/api/background/call"),
    ("DELETE", "/api/background/gate/habits"),
    ("POST", "/api/background/pause"),
    ("POST", "/api/background/resume"),
    ("POST", "/api/background/schedules"),
    ("DELETE", "/api/background/schedules/nobody"),
    ("POST", "/api/cluster/tokens"),
    ("POST", "/api/cluster/workers"),
    ("DELETE", "/api/cluster/workers/nobody"),
    ("POST", "/api/cluster/workers/nobody/drain"),
    ("POST", "/api/cluster/workers/nobody/resume"),
    ("POST", "/api/cluster/workers/nobody/wake"),
    ("POST", "/api/council/models/pull"),
    ("GET", "/api/keys"),
    ("POST", "/api/keys"),
    ("DELETE", "/api/keys/nobody"),
}


@dataclass(slots=True)
class Place:
    master: Program
    url: str
    tls: ssl.SSLContext | None

    def client(self, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, timeout=30.0, trust_env=False, headers=headers, verify=self.tls or False
        )


def _anyone(url: str) -> ssl.SSLContext | None:
    """Certificates are another test's business."""
    if not url.startswith("https"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def _off_loopback(folder: Path, **env: str) -> AsyncIterator[Place]:
    async with processes.master(folder, "--host", "0.0.0.0", env=env) as master:
        url = master.url.replace("0.0.0.0", "127.0.0.1")
        yield Place(master, url, _anyone(url))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with _off_loopback(tmp_path_factory.mktemp("locked") / "master", COUNCIL_KEY=KEY) as found:
        yield found


def _flat(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes, also those of included routers, which newer releases of FastAPI keep as they are."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            assert not route.include_context.prefix, "a prefix of an include would have to be added here"  # type: ignore[attr-defined]
            yield from _flat(included.routes)


def _doors(folder: Path) -> list[tuple[str, str]]:
    """(method, path) of every route of the application, and the sockets as `WEBSOCKET`."""
    settings = MasterSettings.load("master", flags={"host": "0.0.0.0", "key": KEY, "data_dir": folder})
    found: list[tuple[str, str]] = []
    for route in _flat(create_app(settings).routes):
        assert isinstance(route, Route | WebSocketRoute), f"{route} is a kind of door that is not tried here"
        path = re.sub(r"{(\w+)(:\w+)?}", lambda part: _VALUES[part[1]], route.path)
        methods = ["WEBSOCKET"] if isinstance(route, WebSocketRoute) else sorted(route.methods or ())
        found += [(method, path) for method in methods]
    return found


async def _knock(place: Place, method: str, path: str, key: str | None) -> int:
    """The status that a request gets; 101 for a socket that is let in."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    if method != "WEBSOCKET":
        async with place.client(**headers) as client:
            async with client.stream(method, path, json={} if method == "POST" else None) as response:
                return response.status_code
    address = place.url.replace("http", "ws", 1) + path
    try:
        async with connect(address, proxy=None, ssl=place.tls, additional_headers=headers):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def test_every_route_and_socket_asks_for_a_key(place: Place, tmp_path: Path) -> None:
    doors = _doors(tmp_path)
    assert len(doors) > 30
    assert ("WEBSOCKET", f"/api/council/sessions/{ID}/events") in doors
    # A method or an address that does not exist tells no more without a key than one that does.
    doors += [("GET", "/api/nothing"), ("PUT", "/api/council/sessions"), ("GET", "/assetsx/app.js")]
    for method, path in doors:
        for key in (None, "a wrong key, though it is long enough"):
            status = await _knock(place, method, path, key)
            if OPEN.match(path):
                assert status not in (401, 403) or path == "/api/login", (method, path)
            elif method == "WEBSOCKET":
                assert status in (401, 403), path
            else:
                assert status in (401, 429), (method, path, status)


async def test_with_the_key_every_route_and_socket_lets_in(tmp_path: Path) -> None:
    """A master of its own: guesses of the other test may have shut ours for a while."""
    async with _off_loopback(tmp_path / "master", COUNCIL_KEY=KEY) as place:
        for method, path in _doors(tmp_path / "unused"):
            status = await _knock(place, method, path, KEY)
            if OF_NODES.match(path):
                assert status == 401, (method, path)
            else:
                assert status not in (401, 403, 429) or path == "/api/login", (method, path)
                assert status < 500 or path.startswith("/health"), (method, path, status)


async def test_a_persons_key_opens_everything_but_what_is_an_administrators(tmp_path: Path) -> None:
    async with _off_loopback(tmp_path / "master", COUNCIL_KEY=KEY) as place:
        async with place.client(authorization=f"Bearer {KEY}") as admin:
            made = await admin.post("/api/keys", json={"name": "ann"})
        shut = set()
        for method, path in _doors(tmp_path / "unused"):
            status = await _knock(place, method, path, made.json()["key"])
            if status == 403 and method != "WEBSOCKET":
                shut.add((method, path))
            else:
                assert status not in (401, 403, 429) or path == "/api/login" or OF_NODES.match(path), path
        assert shut == OF_ADMINISTRATORS


async def test_the_page_logs_in_with_a_cookie_that_scripts_cannot_read(tmp_path: Path) -> None:
    async with _off_loopback(tmp_path / "master", COUNCIL_KEY=KEY) as place, place.client() as browser:
        assert (await browser.get("/")).status_code == 200
        assert (await browser.get("/api/council/sessions")).status_code == 401
        wrong = await browser.post("/api/login", json={"key": "not the key of this house"})
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
        right = await browser.post("/api/login", json={"key": KEY})
        assert right.status_code == 204
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        value = right.headers["set-cookie"].split(";")[0]
        listed = await browser.get("/api/council/sessions", headers={"cookie": value})
        assert listed.status_code == 200
        # Another site's page may have the browser send the cookie, but never speaks for its person.
        foreign = {"cookie": value, "origin": "https://elsewhere.example"}
        refused = await browser.post("/api/council/sessions", json={}, headers=foreign)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def _fails_to_start(folder: Path, *arguments: str, **env: str) -> str:
    done = await asyncio.to_thread(
        zygote.run,
        "master",
        ("--port", "0", "--data-dir", str(folder), *arguments),
        env=clean_environment(env),
    )
    assert (done.returncode, done.stdout) == (1, b"")
    return done.stderr.decode()


async def test_without_a_key_it_does_not_start_off_loopback_and_says_what_to_type(tmp_path: Path) -> None:
    said = await _fails_to_start(tmp_path / "master", "--host", "0.0.0.0")
    assert said.count("\n") == 1
    assert "COUNCIL_KEY" in said
    assert "--insecure-lan" in said
    weak = await _fails_to_start(tmp_path / "master", "--host", "0.0.0.0", COUNCIL_KEY="short")
    assert "16 characters" in weak
    assert not (tmp_path / "master" / "council.db").exists()


async def test_insecure_lan_serves_without_a_key_and_says_so_in_the_log(tmp_path: Path) -> None:
    async with _off_loopback(tmp_path / "master", COUNCIL_INSECURE_LAN="true") as place:
        assert await _knock(place, "GET", "/api/council/sessions", None) == 200
    assert "--insecure-lan" in place.master.log.read_text()


async def test_on_loopback_a_foreign_host_name_is_refused(tmp_path: Path) -> None:
    """A page whose name was pointed at this machine (DNS rebinding) reads and does nothing."""
    async with processes.master(tmp_path / "master") as master, processes.client(master) as client:
        port = httpx.URL(master.url).port
        for host in (
            f"evil.example:{port}",
            "192.168.1.9",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[",
        ):
            for method, path in (
                ("GET", "/"),
                ("GET", "/api/council/sessions"),
                ("POST", "/v1/chat/completions"),
            ):
                refused = await client.request(method, path, headers={"host": host})
                assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), host
            if host == "[":  # no client of sockets takes it
                continue
            name = host.split(":")[0]
            with pytest.raises(InvalidStatus) as shut:
                async with connect(
                    f"ws://{name}:{port}/api/council/sessions/{ID}/events",
                    proxy=None,
                    host="127.0.0.1",
                    port=port,
                ):
                    pass
            assert shut.value.response.status_code == 403
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
            allowed = await client.get("/api/council/sessions", headers={"host": host})
            assert allowed.status_code == 200, host


@pytest.mark.parametrize("origin", ["http://[", "http://[x", "null", "evil.example", "http://127.0.0.1.evil"])
async def test_an_origin_that_is_none_or_foreign_is_refused_in_words(place: Place, origin: str) -> None:
    async with place.client(authorization=f"Bearer {KEY}", origin=origin) as client:
        refused = await client.post("/api/council/sessions", json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["[", "[x]", "127.0.0.1]"])
async def test_a_host_that_cannot_be_read_is_refused_in_words(place: Place, host: str) -> None:
    async with place.client(host=host) as client:
        for path in ("/", "/health", "/api/keys"):
            refused = await client.get(path)
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), path
