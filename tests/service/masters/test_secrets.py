"""Masters that serve the LAN: one authority for all of them, and no way in without a key."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import httpx
import pytest

from master.authority import open_authority
from tests import processes
from tests.postgres import PostgresServer
from tests.processes import Program
from tests.service.lan.lan import KEY, QUIET
from tests.service.master.accounts import rows
from tests.service.master.rig import model
from tests.standin import StandInOllama

ASKED = {"question": "What is 2 + 2?", "selected_agents": ["m1"], "chairman": "boss"}


async def start(folder: Path, database: str, node: Program | None = None, key: str = KEY) -> Program:
    return await processes.start_master(
        folder,
        "--host",
        "0.0.0.0",
        nodes={"pc2": node.url} if node else {},
        env={"COUNCIL_KEY": key, "COUNCIL_DATABASE_URL": database, **QUIET},
    )


async def test_masters_with_one_key_share_an_authority_and_pass_requests_on_over_tls(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    models = [model("m1", token_ms=2), model("boss")]
    with postgres_server.database() as url:
        async with (
            StandInOllama(models, slots=4) as standin,
            processes.node(tmp_path / "node", name="pc2", ollama=standin.base_url) as node,
        ):
            a = await start(tmp_path / "a", url, node)
            b = await start(tmp_path / "b", url, node)
            try:
                files = [(tmp_path / name / "authority.json").read_text() for name in "ab"]
                assert files[0] == files[1]
                kept = {row["name"]: row["value"] for row in rows(url, "SELECT * FROM cluster_secrets")}
                assert json.loads(files[0])["key"][40:80] not in kept["certificate authority"]
                context = ssl.create_default_context(cadata=json.loads(files[0])["certificate"])
                headers = {"authorization": f"Bearer {KEY}"}
                at = [one.url.replace("0.0.0.0", "127.0.0.1") for one in (a, b)]
                async with httpx.AsyncClient(verify=context, timeout=30.0, trust_env=False) as client:
                    opened = await client.post(f"{at[0]}/api/council/sessions", json=ASKED, headers=headers)
                    assert opened.status_code == 201, opened.text
                    path = f"/api/council/sessions/{opened.json()['id']}"
                    assert (await client.get(at[1] + path)).status_code == 401
                    accept = {"accept": "text/event-stream", **headers}
                    async with client.stream("GET", f"{at[1]}{path}/events", headers=accept) as events:
                        lines = [line async for line in events.aiter_lines() if line.startswith("data: ")]
                    assert json.loads(lines[-1][6:])["type"] == "session.completed"
                    again = await client.post(f"{at[1]}{path}/cancel", headers=headers)
                    assert again.status_code == 409, again.text
                    assert (await client.get(at[1] + path, headers=headers)).json()["result"] == "single"
            finally:
                await a.stop()
                await b.stop()


async def test_no_key_of_a_person_turns_into_an_administrators_by_way_of_another_master(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with postgres_server.database() as url:
        async with (
            StandInOllama([model("m1", token_ms=2), model("boss")], slots=4) as standin,
            processes.node(tmp_path / "node", name="pc2", ollama=standin.base_url) as node,
        ):
            a = await start(tmp_path / "a", url, node)
            b = await start(tmp_path / "b", url, node)
            try:
                authority = json.loads((tmp_path / "a" / "authority.json").read_text())["certificate"]
                context = ssl.create_default_context(cadata=authority)
                at_a, at_b = (
                    httpx.AsyncClient(
                        base_url=one.url.replace("0.0.0.0", "127.0.0.1"),
                        verify=context,
                        timeout=30.0,
                        trust_env=False,
                    )
                    for one in (a, b)
                )
                async with at_a, at_b:
                    admin = {"authorization": f"Bearer {KEY}"}
                    made = await at_a.post("/api/keys", json={"name": "ann"}, headers=admin)
                    ann = {"authorization": f"Bearer {made.json()['key']}"}
                    opened = await at_b.post("/api/council/sessions", json=ASKED, headers=admin)
                    assert opened.status_code == 201, opened.text
                    path = f"/api/council/sessions/{opened.json()['id']}"
                    eve = {"name": "eve", "role": "admin"}
                    for way in (
                        "/%2e%2e/%2e%2e/%2e%2e/keys",
                        "/..%2f..%2f../keys",
                        "/agents/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/keys",
                        "/agents/..%2f..%2f..%2f..%2f..%2fapi%2fkeys%3fx=/retry",
                        "//%2e%2e/%2e%2e/%2e%2e/%2e%2e/keys",
                    ):
                        answer = await at_a.post(path + way, json=eve, headers=ann)
                        assert answer.status_code in (404, 422), (way, answer.text)
                    told = await at_b.get("/api/keys", headers=admin)
                    assert [one["name"] for one in told.json()["keys"]] == ["ann"]
                    # And the key that the masters share opens sessions, with the rights of a person.
                    (row,) = rows(url, "SELECT value FROM cluster_secrets WHERE name = 'peer key'")
                    peer = {"authorization": f"Bearer {row['value']}"}
                    assert (await at_b.get(path, headers=peer)).status_code == 200
                    for method, other, body in (
                        ("POST", "/api/keys", eve),
                        ("GET", "/api/keys", None),
                        ("POST", "/api/cluster/tokens", {}),
                        ("GET", "/api/council/sessions", None),
                        ("POST", "/api/council/sessions", ASKED),
                        ("GET", "/api/conversations", None),
                        ("POST", "/api/login", {"key": row["value"]}),
                    ):
                        answer = await at_b.request(method, other, json=body, headers=peer)
                        assert answer.status_code == 403, (method, other, answer.text)
            finally:
                await a.stop()
                await b.stop()


async def test_another_key_or_another_authority_is_refused_with_what_to_do(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with postgres_server.database() as url:
        await (await start(tmp_path / "a", url)).stop()
        other = "another-key-that-is-long-enough"
        with pytest.raises(RuntimeError, match=r"locked with another COUNCIL_KEY.*authority\.json"):
            await start(tmp_path / "b", url, key=other)
        stranger = tmp_path / "c"
        stranger.mkdir()
        open_authority(stranger)
        with pytest.raises(RuntimeError, match="move that file away"):
            await start(stranger, url)
        # Who has the authority may come with a new key, and then those with the new key get in.
        await (await start(tmp_path / "a", url, key=other)).stop()
        await (await start(tmp_path / "b", url, key=other)).stop()
