"""Who may use a master that serves other machines, and for what."""

from __future__ import annotations

import asyncio
import ssl
import time
from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest
import websockets

from tests.haste import soon
from tests.service.lan.lan import KEY, LanMaster, lan_node
from tests.standin import StandInModel, StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_person_asks_and_sees_and_administers_nothing(master: LanMaster) -> None:
    key = await master.create_key("ann")
    async with master.client(key) as ann:
        assert (await ann.get("/api/council/sessions")).status_code == 200
        assert (await ann.get("/api/cluster/workers")).status_code == 200
        asked = await ann.post("/api/council/sessions", json={"question": "?", "selected_agents": ["m1"]})
        assert asked.json()["code"] == "model_unavailable"
        for method, path, body in (
            ("POST", "/api/cluster/workers", {"url": "http://192.0.2.9:1"}),
            ("DELETE", "/api/cluster/workers/any", None),
            ("POST", "/api/cluster/workers/any/drain", None),
            ("POST", "/api/cluster/tokens", {}),
            ("POST", "/api/council/models/pull", {"model": "m"}),
            ("GET", "/api/keys", None),
            ("POST", "/api/keys", {"name": "eve", "role": "admin"}),
            ("DELETE", "/api/keys/ann", None),
            ("POST", "/api/something/new", {}),
        ):
            answer = await ann.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path
    await master.admin.delete("/api/keys/ann")


async def test_a_revoked_key_opens_nothing_from_the_next_call_on(master: LanMaster) -> None:
    key = await master.create_key("bob", "admin")
    async with master.client(key) as bob:
        listed = (await bob.get("/api/keys")).json()["keys"]
        assert [(one["name"], one["role"]) for one in listed] == [("bob", "admin")]
        assert key not in str(listed)
        assert (await master.admin.delete("/api/keys/bob")).status_code == 204
        assert (await bob.get("/api/keys")).status_code == 401
    assert (await master.admin.delete("/api/keys/bob")).status_code == 404
    # Neither the key nor a way back to it is in the database.
    for file in master.folder.glob("council.db*"):
        assert key.encode() not in file.read_bytes()


async def test_a_revoked_key_loses_its_open_streams_and_other_keys_keep_theirs(
    master: LanMaster, standin: StandInOllama, tmp_path: Path
) -> None:
    slow = StandInModel("slow", token_ms=20, answer_tokens=2000, resident=True)
    standin.set_model(slow)
    joining = ("--join", master.url, "--token", await master.token(), "--host", "0.0.0.0")
    async with lan_node(tmp_path / "pc2", *joining, ollama=standin.base_url):
        await master.until("pc2", "healthy")
        asked = await master.admin.post(
            "/api/council/sessions", json={"question": "?", "selected_agents": ["slow"]}
        )
        address = f"/api/council/sessions/{asked.json()['id']}"
        context = ssl.create_default_context(cadata=master.authority)

        def socket(one: str) -> websockets.connect:
            return websockets.connect(
                master.url.replace("https", "wss") + f"{address}/events",
                ssl=context,
                additional_headers={"authorization": f"Bearer {one}"},
                proxy=None,
                max_queue=None,
            )

        stream = {"accept": "text/event-stream"}

        async def lose_s() -> float:
            key = await master.create_key("eve")
            async with (
                socket(key) as of_eve,
                socket(KEY) as of_admin,
                master.client(key) as eve,
                eve.stream("GET", f"{address}/events", headers=stream) as events,
            ):
                lines = events.aiter_lines()
                await anext(lines)
                await of_eve.recv()
                began = time.monotonic()
                assert (await master.admin.delete("/api/keys/eve")).status_code == 204
                await of_eve.wait_closed()
                async for _ in lines:
                    pass
                took_s = time.monotonic() - began
                assert of_eve.close_code == 1008
                for _ in range(3):
                    async with asyncio.timeout(30):
                        await of_admin.recv()
                assert of_admin.close_code is None
            return took_s

        await soon(1.0, lose_s)
        await master.admin.delete(address)
    await master.admin.delete("/api/cluster/workers/pc2")


async def test_a_name_is_taken_once(master: LanMaster) -> None:
    await master.create_key("cid")
    assert (await master.admin.post("/api/keys", json={"name": "cid"})).status_code == 409
    assert (await master.admin.post("/api/keys", json={"name": "../x"})).status_code == 422
    await master.admin.delete("/api/keys/cid")


async def test_the_page_logs_in_with_a_cookie_that_scripts_and_other_sites_do_not_get(
    master: LanMaster,
) -> None:
    key = await master.create_key("dan")
    async with master.client(None) as browser:
        assert (await browser.get("/")).status_code == 200
        assert (await browser.get("/api/council/sessions")).status_code == 401
        assert (await browser.post("/api/login", json={"key": "not-the-key-at-all"})).status_code == 401
        answer = await browser.post("/api/login", json={"key": key})
        assert answer.status_code == 204
        cookie = SimpleCookie(answer.headers["set-cookie"])["council_key"]
        assert cookie["httponly"]
        assert cookie["secure"]
        assert cookie["samesite"].lower() == "strict"
        assert (await browser.get("/api/council/sessions")).status_code == 200
        await master.admin.delete("/api/keys/dan")
        assert (await browser.get("/api/council/sessions")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-for-the-socket"},
        {"authorization": f"Bearer {KEY}", "origin": "https://evil.example"},
    ],
)
async def test_a_socket_opens_for_a_key_and_for_no_other_site(
    master: LanMaster, headers: dict[str, str]
) -> None:
    address = master.url.replace("https", "wss") + "/api/council/sessions/x/events"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(
            address,
            ssl=ssl.create_default_context(cadata=master.authority),
            additional_headers=headers,
            proxy=None,
        ):
            pass
    assert refused.value.response.status_code == 403


async def test_plain_http_gets_no_answer(master: LanMaster) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(master.url.replace("https", "http") + "/health")


async def test_a_guesser_waits_while_who_has_a_key_does_not(master: LanMaster) -> None:
    """Last in this file: this address has guessed, and waits before each new key."""
    assert (await master.admin.get("/api/keys")).status_code == 200
    codes: list[int] = []
    async with master.client(None) as guesser:
        for number in range(12):
            answer = await guesser.post("/api/login", json={"key": f"guess-{number}"})
            codes.append(answer.status_code)
            if answer.status_code == 429:
                break
        assert codes[-1] == 429
        assert set(codes[:-1]) == {401}
        assert int(answer.headers["retry-after"]) >= 1
    assert (await master.admin.get("/api/keys")).status_code == 200
