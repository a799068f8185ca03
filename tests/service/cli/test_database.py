"""`council db …` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

from tests import processes
from tests.service.cli.command import Council


async def test_a_master_is_backed_up_while_it_runs_and_restored_once_it_has_stopped(tmp_path: Path) -> None:
    council = Council(tmp_path)
    async with processes.master(tmp_path / "data") as running:
        async with processes.client(running) as client:
            assert (
                await client.get("/health")
            ).status_code == 503  # it has no nodes, and its pulse is written
        told = council.run("db", "backup", "--json")
        assert told.code == 0, told.err
        file = json.loads(told.out)["file"]
        refused = council.run("db", "restore", file, "--force")
        assert refused.code == 1
        assert f"process {running.pid}" in refused.err
    forced = council.run("db", "restore", file, "--force")
    assert (forced.code, "restore --undo" in forced.err) == (0, True), forced.err
    with (tmp_path / "data" / "council.db").open("r+b") as damaged:
        damaged.seek(100)  # the table of contents
        damaged.write(b"\xff" * 1000)
    found = council.run("db", "check", "--json")
    assert found.code == 1
    assert json.loads(found.out)["problems"]
