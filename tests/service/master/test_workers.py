"""`/api/cluster/workers`: nodes come, rest and go, and a restarted master still knows them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests import processes
from tests.processes import Program
from tests.service.master.rig import model
from tests.standin import StandInOllama

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = "/api/cluster/workers"
KEY = "a key of the node that is long enough"


class Place:
    """Two nodes, one of which asks for a key, before one engine; masters are started by the tests."""

    def __init__(self, folder: Path, free: Program, keyed: Program, standin: StandInOllama) -> None:
        self.folder, self.free, self.keyed, self.standin = folder, free, keyed, standin


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("workers")
    async with (
        StandInOllama([model("m1"), model("m2")], slots=4) as standin,
        processes.node(folder / "free", name="free", ollama=standin.base_url) as free,
        processes.node(
            folder / "keyed", name="keyed", ollama=standin.base_url, env={"COUNCIL_NODE_KEY": KEY}
        ) as keyed,
    ):
        yield Place(folder, free, keyed, standin)


async def _add(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(WORKERS, json=body)


async def _until_state(client: httpx.AsyncClient, name: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(15):
        while True:
            shown: dict[str, Any] = (await client.get(f"{WORKERS}/{name}")).json()
            if shown["state"] == state:
                return shown
            await asyncio.sleep(0.05)


async def test_a_node_is_added_shown_drained_resumed_and_removed(place: Place) -> None:
    async with (
        processes.master(place.folder / "life") as master,
        processes.client(master) as client,
    ):
        added = await _add(client, url=place.free.url, name="pc2")
        assert added.status_code == 201, added.text
        shown = added.json()
        assert (shown["name"], shown["url"], shown["state"]) == ("pc2", place.free.url, "healthy")
        assert {one["name"].removesuffix(":latest") for one in shown["models"]} == {"m1", "m2"}
        assert shown["slots"] >= 1
        assert shown["engines"][0]["status"] == "connected"
        assert [one["name"] for one in (await client.get(WORKERS)).json()["workers"]] == ["pc2"]
        async with asyncio.timeout(30):  # its machine is looked at beside the heartbeat
            while not (await client.get(f"{WORKERS}/pc2")).json()["system"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        drained = await client.post(f"{WORKERS}/pc2/drain")
        assert (drained.status_code, drained.json()["state"]) == (200, "draining")
        question = {"question": "?", "selected_agents": ["m1"], "chairman": "m1"}
        waiting = await client.post("/api/council/sessions?wait=true&wait_s=0.3", json=question)
        assert waiting.status_code in (202, 409)
        assert not place.standin.calls(kind="chat"), "a draining node was sent a call"
        anybody = await client.post("/api/council/sessions", json={"question": "?"})
        assert (anybody.status_code, anybody.json()["code"]) == (409, "model_unavailable")
        assert "pc2: draining" in anybody.json()["detail"]
        assert "council worker resume pc2" in anybody.json()["detail"]
        resumed = await client.post(f"{WORKERS}/pc2/resume")
        assert (resumed.status_code, resumed.json()["state"]) == (200, "healthy")
        done = await client.post("/api/council/sessions?wait=true", json=question)
        assert (done.status_code, done.json()["result"]) == (201, "single")
        assert (await client.delete(f"{WORKERS}/pc2")).status_code == 204
        assert (await client.get(WORKERS)).json()["workers"] == []
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/drain"), ("POST", "/resume")):
            gone = await client.request(method, f"{WORKERS}/pc2{path}")
            assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    place.standin.reset()


async def test_what_is_no_node_of_ours_is_refused_and_not_kept(place: Place) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with (
            processes.master(place.folder / "refusing") as master,
            processes.client(master) as client,
        ):
            refused = {
                "ftp://127.0.0.1:1": (422, "invalid_request"),
                "http://": (422, "invalid_request"),
                "http://127.0.0.1:99999": (422, "invalid_request"),
                "http://me@127.0.0.1:8001": (422, "invalid_request"),
                f"http://127.0.0.1:{port}": (502, "node_unreachable"),
                master.url: (502, "node_unreachable"),
                place.standin.base_url: (502, "node_unreachable"),
            }
            for url, (status, code) in refused.items():
                response = await _add(client, url=url, name="x")
                assert (response.status_code, response.json()["code"]) == (status, code), url
            for key in (None, "a wrong key, though long enough"):
                response = await _add(client, url=place.keyed.url, name="x", key=key)
                assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
                assert "key" in response.json()["detail"]
                assert key is None or key not in response.text
            clear = await _add(client, url="http://192.0.2.9:8001", name="x", key=KEY)
            assert (clear.status_code, clear.json()["code"]) == (422, "invalid_request")
            assert "in the clear" in clear.json()["detail"]
            assert KEY not in clear.text
            assert (await _add(client, url=place.free.url, name="not a name!")).status_code == 422
            assert (await client.get(WORKERS)).json()["workers"] == []
            assert (await _add(client, url=place.free.url, name="one")).status_code == 201
            for body in (
                {"url": place.keyed.url, "name": "one", "key": KEY},
                {"url": place.free.url, "name": "two"},
            ):
                twice = await _add(client, **body)
                assert (twice.status_code, twice.json()["code"]) == (409, "conflict")
            assert [one["name"] for one in (await client.get(WORKERS)).json()["workers"]] == ["one"]


async def test_a_key_of_the_settings_that_would_travel_in_the_clear_stops_the_start(place: Place) -> None:
    listed = {"COUNCIL_NODES": f"pc2=http://192.0.2.9:8001#{KEY}"}
    with pytest.raises(RuntimeError, match=r"ended with 1.*in the clear.*--insecure-lan") as refused:
        await processes.start_master(place.folder / "clear", env=listed)
    assert KEY not in str(refused.value)


async def test_added_nodes_survive_a_restart_with_key_and_drained_as_they_were(place: Place) -> None:
    async with (
        processes.master(place.folder / "kept") as master,
        processes.client(master) as client,
    ):
        keyed = await _add(client, url=place.keyed.url, name="locked", key=KEY)
        assert keyed.status_code == 201
        assert KEY not in keyed.text
        assert (await _add(client, url=place.free.url, name="resting")).status_code == 201
        await client.post(f"{WORKERS}/resting/drain")
        master.kill()
        await master.wait()
    async with (
        processes.master(place.folder / "kept") as master,
        processes.client(master) as client,
    ):
        locked = await _until_state(client, "locked", "healthy")
        assert locked["models"]
        resting = (await client.get(f"{WORKERS}/resting")).json()
        assert resting["state"] == "draining"
        assert (await client.delete(f"{WORKERS}/locked")).status_code == 204
        await master.stop()
    async with (
        processes.master(place.folder / "kept") as master,
        processes.client(master) as client,
    ):
        assert [one["name"] for one in (await client.get(WORKERS)).json()["workers"]] == ["resting"]
