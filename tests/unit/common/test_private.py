"""What is asked of Windows so that keys and conversations are their owner's alone; elsewhere nothing is."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.private import commands, keep_private
from common.tls import write_private

ICACLS = "icacls.exe"


class Windows:
    """Notes the commands that it is told to run; `refuses` makes each of them fail."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.ran: list[list[str]] = []
        self._refuses = refuses

    def run(self, command: list[str], **named: Any) -> None:
        assert named["check"]
        assert named["timeout"]
        self.ran.append(command)
        if self._refuses:
            raise subprocess.CalledProcessError(1332, command)


def test_a_folder_is_given_to_its_owner_with_all_that_comes_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMROOT", "W")
    granted, cut = commands(Path("council"), "PC1\\ann", is_folder=True)
    assert granted[0].startswith("W")
    assert granted[0].endswith(ICACLS)
    assert granted[1:] == ["council", "/grant:r", "PC1\\ann:(OI)(CI)F", "*S-1-5-18:(OI)(CI)F", "/q"]
    assert cut[1:] == ["council", "/inheritance:r", "/q"]


def test_a_file_is_given_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDOMAIN", "PC1")
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    file = tmp_path / "council.db"
    file.touch()
    windows = Windows()
    keep_private(file, windows=True, run=windows.run)
    assert [command[1:] for command in windows.ran] == [
        [str(file), "/grant:r", "PC1\\ann:F", "*S-1-5-18:F", "/q"],
        [str(file), "/inheritance:r", "/q"],
    ]
    keep_private(file, windows=True, run=windows.run)
    assert len(windows.ran) == 2, "once in the life of a program"


def test_what_is_refused_is_told_and_locks_nobody_out(tmp_path: Path) -> None:
    windows = Windows(refuses=True)
    with capture_logs() as logs:
        keep_private(tmp_path, windows=True, run=windows.run)
    assert [one["log_level"] for one in logs] == ["warning"]
    assert str(tmp_path) in logs[0]["by"]
    assert not any("/inheritance:r" in command for command in windows.ran)


def test_a_home_folder_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "users" / "ann")
    windows = Windows()
    for folder in (tmp_path / "users" / "ann", tmp_path / "users", tmp_path):
        keep_private(folder, windows=True, run=windows.run)
    assert windows.ran == []
    keep_private(tmp_path / "users" / "ann" / "council", windows=True, run=windows.run)
    assert len(windows.ran) == 2


def test_a_secret_is_written_only_once_its_folder_is_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Path, list[Path]]] = []
    monkeypatch.setattr("common.tls.keep_private", lambda path: kept.append((path, list(path.iterdir()))))
    write_private(tmp_path / "new" / "authority.json", "secret")
    assert kept == [(tmp_path / "new", [])]
