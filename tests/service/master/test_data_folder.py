"""The data folder and the port: taken, not writable, full. One clear line, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import processes, zygote
from tests.service.master import rig
from tests.service.master.rig import CHAIRMAN, Rig, assert_full

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSIONS = "/api/council/sessions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig.running(tmp_path_factory.mktemp("folder")) as found:
        yield found


def _unmeasured(environment: dict[str, str]) -> dict[str, str]:
    """Without coverage, whose own file could not be written either."""
    return {name: value for name, value in environment.items() if not name.startswith("COV")}


async def refused(*arguments: str, preexec: Callable[[], None] | None = None) -> str:
    """Start a master that cannot start: it ends with 1 and one line, which is returned."""
    if preexec is None:
        ended = await asyncio.to_thread(zygote.run, "master", arguments, env=processes.clean_environment())
    else:
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "master", *arguments],
            cwd=processes.ROOT,
            env=_unmeasured(processes.clean_environment()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            preexec_fn=preexec,
        )
    said = ended.stderr.decode()
    assert ended.returncode == 1, said
    assert ended.stdout == b""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if not line.startswith("{")]  # the log is JSON
    assert len(lines) == 1, said
    assert lines[0].startswith("council master: ")
    return lines[0]


async def test_a_second_master_on_the_same_folder_names_the_first_and_leaves_it_alone(cluster: Rig) -> None:
    cluster.standin.set_model(rig.model("m1", token_ms=60))
    opened = await cluster.open()
    await cluster.writing(opened["id"], "opinions")
    said = await refused("--port", "0", "--data-dir", str(cluster.folder / "master"))
    assert f"process {cluster.master.pid}" in said
    assert "--data-dir" in said
    assert_full(await cluster.ended(opened["id"]))


async def test_a_second_master_on_the_same_port_says_so_and_touches_no_folder(
    cluster: Rig, tmp_path: Path
) -> None:
    cluster.standin.set_model(rig.model("m1", token_ms=60))
    opened = await cluster.open()
    await cluster.writing(opened["id"], "opinions")
    port = cluster.master.url.rsplit(":", 1)[-1]
    said = await refused("--port", port, "--data-dir", str(tmp_path / "other"))
    assert f"port {port}" in said
    assert "--port" in said
    assert not (tmp_path / "other").exists()
    assert_full(await cluster.ended(opened["id"]))


async def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    said = await refused("--port", "0", "--data-dir", str(tmp_path / "taken"))
    assert str(tmp_path / "taken") in said
    assert "--data-dir" in said
    assert (tmp_path / "taken").read_text() == "mine"


async def test_a_database_that_is_none_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "council.db").write_bytes(b"this is my diary, and no database" * 200)
    said = await refused("--port", "0", "--data-dir", str(tmp_path))
    assert "backup" in said
    assert (tmp_path / "council.db").read_bytes().startswith(b"this is my diary")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_a_folder_that_takes_no_files_is_an_error_in_words(tmp_path: Path) -> None:
    """As root modes forbid nothing, so there the limit on the size of files stands in."""
    import resource

    def nothing_can_grow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    preexec = nothing_can_grow if os.geteuid() == 0 else None
    said = await refused("--port", "0", "--data-dir", str(folder), preexec=preexec)
    assert str(folder) in said or "database" in said
    assert "--data-dir" in said or "space" in said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets limits of a running process")
async def test_a_disk_that_fills_up_during_a_session_costs_its_memory_and_not_its_answer(
    tmp_path: Path,
) -> None:
    import resource

    async with rig.running(tmp_path) as cluster:
        before = await cluster.council()
        for name in rig.SEATS:
            cluster.standin.set_model(rig.model(name, token_ms=40))
        opened = await cluster.open()
        watching = asyncio.create_task(cluster.all_events(opened["id"]))
        await cluster.writing(opened["id"], "opinions")

        # From now on no file of the master can grow: what a full disk does, for this process only.
        full = (tmp_path / "master" / "council.db-wal").stat().st_size
        resource.prlimit(cluster.master.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
        events = await watching
        assert_full(await cluster.get(opened["id"]))
        (warning,) = [event["text"] for event in events if event["type"] == "warning"]
        assert "not saved" in warning
        assert events[-1]["type"] == "session.completed"
        health = await cluster.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
        assert health.json()["checks"]["database"] == "storage_full"
        refused_now = await cluster.client.post(SESSIONS, json=_question())
        assert refused_now.status_code == 507
        assert refused_now.headers["content-type"] == "application/problem+json"
        assert refused_now.json()["code"] == "storage_full"
        # What was saved can still be read.
        assert (await cluster.get(before["id"])) == before

        # With space again the master needs no restart.
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(cluster.master.pid, resource.RLIMIT_FSIZE, unlimited)
        assert (await cluster.client.get("/health")).json()["checks"]["database"] == "connected"
        assert_full(await cluster.council())

        # The session that was not saved is resumed by the next master from what was: it ends once more.
        cluster.assert_no_traceback()
        assert await cluster.master.stop() == 0
        async with processes.master(
            tmp_path / "master", nodes={"pc2": cluster.nodes["pc2"].url}, env=rig.QUICK
        ) as master:
            async with processes.client(master) as client:
                again = Rig(tmp_path, cluster.standin, cluster.nodes, master, client)
                assert_full(await again.ended(opened["id"]))


def _question() -> dict[str, Any]:
    return {"question": "And now?", "selected_agents": ["m1", "m2"], "chairman": CHAIRMAN}
