"""What a node says of the masters that it found."""

from __future__ import annotations

import pytest

from common import discovery
from common.discovery import Found, Role
from worker_node.standing import tell_masters


def on_the_lan(monkeypatch: pytest.MonkeyPatch, *masters: Found) -> None:
    async def look(_role: Role) -> list[Found]:
        return list(masters)

    monkeypatch.setattr(discovery, "look", look)


async def test_a_node_alone_hears_that_no_master_is_there_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_the_lan(monkeypatch)
    await tell_masters(alone=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "no master was found" in line
    assert "council up --host 0.0.0.0" in line
    assert "council worker token" in line
    await tell_masters()
    assert capsys.readouterr().err == ""


async def test_every_master_has_one_line_whatever_it_calls_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    liar = Found("master", "pc\x1b[2K\nFound nothing", "https://192.168.1.66:8000", None)
    on_the_lan(monkeypatch, Found("master", "pc1", "https://192.168.1.10:8000", "3f" * 32), liar)
    await tell_masters(alone=True)
    first, second = capsys.readouterr().err.splitlines()
    assert "master pc1 at https://192.168.1.10:8000" in first
    assert "`council node start --join https://192.168.1.10:8000 --token T`" in first
    assert "master pc?[2K?Found nothing at" in second
