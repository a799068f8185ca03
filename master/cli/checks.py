"""What `council doctor` looks at on this machine: each check is a function that returns its findings."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.errors import CouncilError

if TYPE_CHECKING:
    from common.master_settings import MasterSettings
    from common.node_settings import NodeSettings

Level = Literal["ok", "warn", "fail"]
LITTLE_SPACE_BYTES = 2 * 1000**3  # one small model and a database
NO_SPACE_BYTES = 100 * 1000**2
OF_THE_COMMAND = frozenset({"COUNCIL_URL", "COUNCIL_KEY", "COUNCIL_CONFIG", "COUNCIL_CA"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: `hint` is what to type, where something can be done."""

    level: Level
    what: str
    told: str
    hint: str | None = None


def python_version() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < (3, 11):  # noqa: UP036  # a checkout can be run by any Python
        return Finding("fail", "python", f"{version} is too old", "install Python 3.11, 3.12 or 3.13")
    if sys.version_info >= (3, 14):
        return Finding(
            "warn", "python", f"{version} is newer than what was tried", "use Python 3.13 if it fails"
        )
    return Finding("ok", "python", version)


def settings(config: Path | None) -> tuple[Finding, MasterSettings | None, NodeSettings | None]:
    """Whether both programs could read their settings, and these."""
    from common.master_settings import MasterSettings
    from common.node_settings import NodeSettings

    try:
        master = MasterSettings.load("master", config=config)
        node = NodeSettings.load("node", config=config)
    except CouncilError as error:
        return (
            Finding("fail", "settings", error.detail, "`council config show` lists what is known"),
            None,
            None,
        )
    return Finding("ok", "settings", "read"), master, node


def unknown_environment(names: Iterable[str]) -> list[Finding]:
    """`COUNCIL_*` names that nothing reads, with the nearest name that something does."""
    from common.master_settings import MasterSettings
    from common.node_settings import NodeSettings

    known = set(OF_THE_COMMAND)
    for model in (MasterSettings, NodeSettings):
        known |= {model.environment_name(field) for field in model.model_fields}
    found = []
    for name in sorted(names):
        if not name.startswith("COUNCIL_") or name.startswith("COUNCIL_TEST_") or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"unset {name}"
        found.append(Finding("warn", "environment", f"{name} is set and nothing reads it", hint))
    return found or [Finding("ok", "environment", "every COUNCIL_ name is known")]


def data_folder(folder: Path) -> list[Finding]:
    """Whether the data folder takes writes and has room. Nothing is created but a file that is removed."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    elsewhere = "choose another folder: --data-dir DIR or COUNCIL_DATA_DIR"
    if not place.is_dir():
        return [Finding("fail", "data folder", f"{place} is not a folder", elsewhere)]
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return [Finding("fail", "data folder", f"{folder} cannot be written: {error.strerror}", elsewhere)]
    free = shutil.disk_usage(place).free
    told = f"{free / 1000**3:.1f} GB free"
    found = [Finding("ok", "data folder", str(folder))]
    if free < NO_SPACE_BYTES:
        return [*found, Finding("fail", "disk", told, f"free some space, or {elsewhere}")]
    if free < LITTLE_SPACE_BYTES:
        return [*found, Finding("warn", "disk", f"{told}: too little for models", elsewhere)]
    return [*found, Finding("ok", "disk", told)]


def embedded_engine() -> Finding:
    from importlib.util import find_spec

    if find_spec("xllamacpp") is None:
        return Finding(
            "warn", "embedded engine", "xllamacpp is not installed", "pip install --upgrade lan-council"
        )
    return Finding("ok", "embedded engine", "llama.cpp is here")


def port(name: str, host: str, number: int, *, ours: bool) -> Finding:
    """Whether a port is free, or held by a program of ours (`ours`), or by somebody else."""
    from master.cli.ports import listener_on

    holder = listener_on(host, number) if number else None
    if holder is None:
        return Finding("ok", f"port {number}", f"free for the {name}")
    if ours:
        return Finding("ok", f"port {number}", f"the {name}: {holder}")
    flag = "--port" if name == "master" else "--node-port"
    return Finding(
        "warn", f"port {number}", f"taken by {holder}", f"choose another: council up {flag} {number + 10}"
    )


def environment() -> list[Finding]:
    return unknown_environment(os.environ)
