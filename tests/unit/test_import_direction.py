"""Arrows go down only: common ← worker_node, common ← master, no circles; pure cores import no I/O."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "common": ("master", "worker_node", "frontend", "tests"),
    "worker_node": ("master", "frontend", "tests"),
    "master": ("worker_node", "tests"),
    "frontend": ("master", "worker_node", "common", "tests"),
}
PURE = [
    "master/background/caps.py",
    "master/background/verdict.py",
    "master/background/model_choice.py",
    "master/council/attempt_book.py",
    "master/council/findings.py",
    "master/council/notices.py",
    "master/cluster/background_route.py",
    "master/cluster/lane_call.py",
    "master/background/foreign_use.py",
    "master/background/gate.py",
    "master/background/host_holds.py",
    "master/background/night.py",
    "master/background/pattern.py",
    "master/background/states.py",
    "master/council/ballots.py",
    "master/council/budget.py",
    "master/council/choice.py",
    "master/council/plan.py",
    "master/council/prompts.py",
    "master/council/ranking.py",
    "master/council/session.py",
    "master/council/states.py",
    "master/cluster/breaker.py",
    "master/cluster/choice.py",
    "master/cluster/fair_queue.py",
    "master/cluster/lanes.py",
    "master/cluster/placement.py",
    "master/cluster/roll.py",
    "master/cluster/places.py",
    "master/cluster/speeds.py",
    "master/cluster/swaps.py",
    "master/cluster/usage_minutes.py",
    "worker_node/admission.py",
    "worker_node/engine_slots.py",
]
IMPURE_MODULES = {"asyncio", "time", "random", "socket", "httpx", "aiohttp", "sqlalchemy", "os", "threading"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names, late imports and those for types alone included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            # `from package import module` names a module, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_arrow_points_up(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in FORBIDDEN
        for path in (ROOT / package).rglob("*.py")
    }
    arrows = {name: {one for one in imports(path) if one in files} - {name} for name, path in files.items()}
    assert sum(map(len, arrows.values())) > len(files)
    graphlib.TopologicalSorter(arrows).prepare()  # raises with the circle's names


@pytest.mark.parametrize("module", PURE)
def test_a_pure_core_reads_no_clock_no_socket_and_no_chance(module: str) -> None:
    found = {name.split(".")[0] for name in imports(ROOT / module)}
    assert found & IMPURE_MODULES == set()


def test_only_state_speaks_to_the_database() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "master").rglob("*.py")
        if "state" not in path.parts and any(name.split(".")[0] == "sqlalchemy" for name in imports(path))
    ]
    assert wrong == []


def test_only_one_file_knows_the_job_engine() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "master").rglob("*.py")
        if any(name.split(".")[0] == "dbos" for name in imports(path))
    ]
    assert wrong == ["master/state/durable.py"]
