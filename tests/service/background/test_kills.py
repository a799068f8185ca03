"""Jobs whose executor is killed at any write, ours or the job engine's, and what the next one makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.processes import ROOT, clean_environment
from tests.service.master.accounts import rows

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked: Linux and macOS"),
]

KILLED = -9
# What the two jobs write when nobody disturbs them: one asks twice, the other fails once and is retried.
WRITES = Counter(
    {
        "submit_batch": 1,
        "claim": 2,
        "engine.init_workflow": 2,
        "engine.resume_workflows": 1,
        "begin": 2,
        "end": 2,
        "engine.record_operation_result": 4,
        "progress": 2,
        "put_back": 1,
        "finish": 2,
        "engine.update_workflow_outcome": 2,
    }
)
LAST = 30
BOUNDARIES = [(number, when) for number in range(1, LAST + 1) for when in ("before", "after")]


class Lives:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def live(
        self, folder: Path, kill: tuple[int, str] | None = None, url: str | None = None
    ) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"folder": str(folder), "url": url, "log": str(folder / "life.log"), "kill": kill}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(90):
            line = await self._process.stdout.readline()
        assert line, "the lives ended"
        told: dict[str, Any] = json.loads(line)
        return told


@asynccontextmanager
async def _lives() -> AsyncIterator[Lives]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.service.background.lives",
        cwd=ROOT,
        env=clean_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Lives(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lives() -> AsyncIterator[Lives]:
    async with _lives() as found:
        yield found


def _json(value: Any) -> Any:
    """A column of JSON; SQLite's driver leaves it as text."""
    return json.loads(value) if isinstance(value, str) else value


def _is_whole(folder: Path, database: Path | str, *, killed: bool) -> None:
    """Both jobs are done, no finished step or call was done twice, and the calls are all accounted for."""
    jobs = rows(database, "SELECT * FROM jobs ORDER BY position")
    assert [job["state"] for job in jobs] == ["done", "done"]
    asking, failing = jobs
    assert _json(asking["result"]) == {"said": [4, 4]}
    # What was on its way at the kill may be done once more: a step of each job, no more.
    calls = rows(database, "SELECT * FROM job_calls")
    asked = len(list(folder.glob("call-*")))
    assert len(calls) in ((asked, asked - 1) if killed else (asked,))
    assert 2 <= asked <= (3 if killed else 2)
    assert {call["outcome"] for call in calls} <= {"done", "interrupted"}
    assert all(call["prompt_tokens"] == 7 for call in calls if call["outcome"] == "done")
    assert all(call["usage_unknown"] for call in calls if call["outcome"] == "interrupted")
    done = sum(call["outcome"] == "done" for call in calls)
    assert 2 <= done <= asked
    firsts = len(list(folder.glob(f"{failing['id']}-first*")))
    seconds = len(list(folder.glob(f"{failing['id']}-second*")))
    assert 1 <= firsts <= (2 if killed else 1)
    assert 2 <= seconds <= (3 if killed else 2)
    assert (firsts - 1) + (seconds - 2) <= 1
    assert failing["attempts"] <= 1


async def test_an_undisturbed_life_writes_what_the_boundaries_are_made_of(
    lives: Lives, tmp_path: Path
) -> None:
    life = await lives.live(tmp_path)
    assert life["ended"] == 0
    writes = Counter(life["writes"])
    assert writes["engine.record_operation_result"] == WRITES["engine.record_operation_result"]
    assert {name: count for name, count in writes.items() if name != "claim"} == {
        name: count for name, count in WRITES.items() if name != "claim"
    }
    assert writes.total() <= LAST
    _is_whole(tmp_path, tmp_path, killed=False)


async def _dies_and_goes_on(
    lives: Lives, folder: Path, boundary: tuple[int, str], url: str | None = None
) -> None:
    life = await lives.live(folder, boundary, url)
    if life["ended"] == 0:
        # That life had fewer empty claims.
        assert len(life["writes"]) < boundary[0]
        return
    assert life["ended"] == KILLED
    life = await lives.live(folder, url=url)
    assert life["ended"] == 0, (folder / "life.log").read_text()[-2000:]
    _is_whole(folder, url or folder, killed=True)


@pytest.mark.parametrize("boundary", BOUNDARIES[5:40:9], ids=lambda one: f"{one[1]}-{one[0]}")
async def test_an_executor_killed_at_a_write_loses_no_job(
    lives: Lives, tmp_path: Path, boundary: tuple[int, str]
) -> None:
    await _dies_and_goes_on(lives, tmp_path, boundary)


@pytest.mark.long
@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda one: f"{one[1]}-{one[0]}")
async def test_an_executor_killed_at_any_write_loses_no_job(
    lives: Lives, tmp_path: Path, boundary: tuple[int, str]
) -> None:
    await _dies_and_goes_on(lives, tmp_path, boundary)


@pytest.mark.long
@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda one: f"{one[1]}-{one[0]}")
async def test_an_executor_killed_at_any_write_on_a_server_loses_no_job(
    lives: Lives, tmp_path: Path, postgres_url: str, boundary: tuple[int, str]
) -> None:
    await _dies_and_goes_on(lives, tmp_path, boundary, postgres_url)
