"""What is typed, what the environment says, and what may be shown of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BY_CODE, ModelUnavailableError, from_problem
from master.cli.addresses import default_url, load_settings, read_running
from master.cli.asking import exit_code
from master.cli.checks import data_folder, unknown_environment
from master.cli.configuration import MASK, masked, settings_of
from master.cli.failure import UsageFailedError, from_council_error
from master.cli.main import COMMANDS, GROUPS, build
from master.cli.printable import json_bytes, one_line, printable
from master.cli.question import parse_agents, parse_options


def test_seats_keep_their_order_and_personas_go_to_those_without() -> None:
    assert parse_agents("a,b", ["c=sceptic", "a"], ["optimist"]) == [
        {"model": "a", "persona": "optimist"}, "b", {"model": "c", "persona": "sceptic"}, "a",
    ]  # fmt: skip


def test_no_agents_leave_the_choice_to_the_cluster() -> None:
    assert parse_agents(None, [], []) is None


@pytest.mark.parametrize("together", ["", "a,", ",", " "])
def test_an_empty_name_is_a_usage_error(together: str) -> None:
    with pytest.raises(UsageFailedError):
        parse_agents(together, [], [])


def test_options_read_as_json_or_as_text() -> None:
    assert parse_options(["temperature=0.7", 'stop=["END"]', "seed=3", "x=a=b"]) == {
        "temperature": 0.7, "stop": ["END"], "seed": 3, "x": "a=b",
    }  # fmt: skip


@given(st.text())
def test_printable_text_has_no_control_code(text: str) -> None:
    shown = printable(text)
    assert all(char in "\t\n" or char.isprintable() or ord(char) >= 0xA0 for char in shown)
    assert "\x1b" not in shown
    assert "\n" not in one_line(text)


@given(st.text(alphabet=st.characters()))
def test_json_is_utf_8_whatever_a_model_wrote(text: str) -> None:
    assert json.loads(json_bytes({"text": text})) == {"text": text}


def test_a_lone_surrogate_is_written_as_its_escape() -> None:
    assert json.loads(json_bytes("\ud800")) == "\ud800"


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_of_the_tree_has_a_line(code: str) -> None:
    told = from_council_error(from_problem({"code": code, "detail": "what happened"}))
    assert told.message == "what happened"
    assert told.exit_code in (1, 2)


def test_the_place_is_named_where_the_detail_does_not() -> None:
    told = from_council_error(ModelUnavailableError("not there", node="pc2", model="phi3.5"))
    assert told.message == "not there (node pc2, model phi3.5)"


@pytest.mark.parametrize(
    ("session", "strict", "code"),
    [
        ({"state": "completed", "result": "full"}, True, 0),
        ({"state": "completed", "result": "degraded"}, False, 0),
        ({"state": "completed", "result": "degraded"}, True, 3),
        ({"state": "completed", "result": "single", "missing_agents": []}, True, 0),
        ({"state": "completed", "result": "single", "missing_agents": ["agent_2"]}, True, 3),
        ({"state": "failed"}, False, 1),
        ({"state": "cancelled"}, True, 1),
    ],
)
def test_exit_codes_tell_how_it_ended(session: dict[str, object], strict: bool, code: int) -> None:
    assert exit_code(session, strict=strict) == code


@pytest.mark.parametrize(
    ("name", "near"), [("COUNCIL_PROT", "COUNCIL_PORT"), ("COUNCIL_NODE_HOTS", "COUNCIL_NODE_HOST")]
)
def test_a_misspelt_name_is_told_with_the_right_one(name: str, near: str) -> None:
    (finding,) = unknown_environment([name, "COUNCIL_URL", "PATH"])
    assert finding.level == "warn"
    assert finding.hint == f"did you mean {near}?"


def test_known_names_are_fine() -> None:
    assert [one.level for one in unknown_environment(["COUNCIL_KEY", "COUNCIL_NODE_PORT"])] == ["ok"]


def test_a_data_folder_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (finding,) = data_folder(tmp_path / "file")
    assert finding.level == "fail"


def test_looking_at_a_data_folder_creates_nothing(tmp_path: Path) -> None:
    assert data_folder(tmp_path / "new" / "folder")[0].level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_masked_wherever_they_hide() -> None:
    assert masked("key", "lc_secret-secret") == MASK
    assert (
        masked("database_url", "postgresql+asyncpg://me:secret@pc/db")
        == f"postgresql+asyncpg://me:{MASK}@pc/db"
    )
    assert masked("nodes", ["pc2=http://pc2:8001#secret"]) == [f"pc2=http://pc2:8001#{MASK}"]
    assert masked("key", None) is None


def test_a_setting_tells_where_it_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from common.master_settings import MasterSettings

    config = tmp_path / "council.toml"
    config.write_text('[master]\nname = "pc1"\nGENERATION_TIMEOUT = 90\n')
    monkeypatch.setenv("COUNCIL_PORT", "8123")
    found = {one.name: (one.value, one.source) for one in settings_of("master", MasterSettings, config)}
    assert found["name"] == ("pc1", "file")
    assert found["generation_timeout_s"] == (90.0, "file")
    assert found["port"] == (8123, "environment")
    assert found["host"] == ("127.0.0.1", "default")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "https://127.0.0.1:9"),
        ("::", "https://[::1]:9"),
        ("pc1", "https://pc1:9"),
        ("::1", "http://[::1]:9"),
    ],
)
def test_a_master_that_listens_everywhere_is_reached_here(host: str, url: str) -> None:
    assert default_url(load_settings(host=host, port=9)) == url


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"name": "x"}'])
def test_a_broken_note_of_a_master_is_no_master(tmp_path: Path, content: str) -> None:
    (tmp_path / "master.json").write_text(content)
    assert read_running(tmp_path) is None


def test_every_command_can_be_built() -> None:
    app = build("*")
    assert len(app.registered_commands) == len(COMMANDS)
    assert len(app.registered_groups) == len(GROUPS)
