"""The listing commands against a scripted master: tables for people, JSON for scripts, a line for faults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.service.cli.command import Council
from tests.service.cli.fake_master import KEY, FakeMaster, serving


def ask_once(council: Council, master: FakeMaster) -> str:
    assert council.run("ask", "Why is the sky blue?", "--json", "--url", master.url).code == 0
    return next(iter(master.sessions))


@pytest.mark.parametrize(
    ("words", "field", "shown"),
    [
        (["models", "list"], "models", "llama3.2:1b"),
        (["models", "recommended"], "models", "1.3 GB"),
        (["worker", "list"], "workers", "pc2"),
        (["sessions", "list"], "sessions", "Why is the sky blue?"),
    ],
)
def test_every_listing_is_a_table_and_json(
    council: Council, master: FakeMaster, words: list[str], field: str, shown: str
) -> None:
    ask_once(council, master)
    assert council.run("worker", "add", "192.168.1.20:8001", "--name", "pc2", "--url", master.url).code == 0
    table = council.run(*words, COUNCIL_URL=master.url)
    assert (table.code, table.err) == (0, "")
    assert shown in table.out
    assert json.loads(council.run(*words, "--json", COUNCIL_URL=master.url).out)[field]


def test_a_node_is_added_shown_and_removed(council: Council, master: FakeMaster) -> None:
    added = council.run("worker", "add", "https://192.168.1.20:8001", "--url", master.url)
    assert "added pc2 (https://192.168.1.20:8001)" in added.out
    assert "pc2" in council.run("worker", "show", "pc2", "--url", master.url).out
    assert council.run("worker", "remove", "pc2", "--url", master.url).code == 0
    gone = council.run("worker", "show", "pc2", "--url", master.url)
    assert gone.code == 1
    assert gone.err == "error: no node is called pc2\n"


def test_the_key_of_a_node_is_not_the_key_of_the_master(council: Council) -> None:
    with serving(FakeMaster(key=KEY)) as master:
        words = ("worker", "add", "http://pc2:8001", "--key", "lc_node", "--master-key", KEY)
        assert council.run(*words, "--url", master.url).code == 0
        assert master.added == [{"url": "http://pc2:8001", "key": "lc_node"}]
        assert council.run("worker", "list", "--url", master.url).code == 1


def test_an_address_without_a_scheme_is_the_masters_to_complete(council: Council, master: FakeMaster) -> None:
    assert council.run("worker", "add", "192.168.1.20:8001", "--url", master.url).code == 0
    assert master.added == [{"url": "192.168.1.20:8001"}]


def test_empty_listings_say_what_to_type(council: Council, master: FakeMaster) -> None:
    assert "council worker add" in council.run("worker", "list", "--url", master.url).out
    assert "council ask" in council.run("sessions", "list", "--url", master.url).out


def test_a_node_that_is_being_started_is_no_empty_cluster(council: Council, master: FakeMaster) -> None:
    master.starting = ["local"]
    listed = council.run("worker", "list", "--url", master.url).out
    assert "No nodes" not in listed
    assert re.search(r"local +starting", listed)


def test_a_model_is_pulled_with_its_progress(council: Council, master: FakeMaster) -> None:
    pulled = council.run("models", "pull", "qwen2.5:0.5b", "--worker", "pc2", "--url", master.url)
    assert pulled.code == 0
    assert pulled.err.splitlines() == ["pulling", "success"]
    assert master.pulled == [{"model": "qwen2.5:0.5b", "worker": "pc2"}]


def test_a_pull_that_fails_half_way_is_exit_1(council: Council, master: FakeMaster) -> None:
    failed = council.run("models", "pull", "nonesuch", "--url", master.url)
    assert failed.code == 1
    assert "error: no such model" in failed.err


def test_a_session_is_shown_exported_and_deleted(
    council: Council, master: FakeMaster, tmp_path: Path
) -> None:
    session_id = ask_once(council, master)
    shown = council.run("sessions", "show", session_id, "--url", master.url)
    assert "Second line of agent_2." in shown.out
    assert "Rayleigh" in shown.out
    exported = council.run("sessions", "export", session_id, "--url", master.url)
    assert exported.out == "# Why is the sky blue?\n"
    words = ("sessions", "export", session_id, "--format", "json", "-o", "out.json")
    assert council.run(*words, "--url", master.url).code == 0
    assert json.loads((tmp_path / "out.json").read_text())["id"] == session_id
    assert council.run("sessions", "delete", session_id, "--url", master.url).code == 2
    assert council.run("sessions", "delete", session_id, "--yes", "--url", master.url).code == 0
    gone = council.run("sessions", "show", session_id, "--url", master.url)
    assert (gone.code, gone.err) == (1, "error: no such session\n")


def test_a_name_cannot_leave_its_place_in_the_address(council: Council, master: FakeMaster) -> None:
    assert council.run("worker", "remove", "../../council/sessions", "--url", master.url).code == 1


@pytest.mark.parametrize("words", [["models", "list"], ["worker", "list"], ["sessions", "list"]])
def test_without_a_master_the_way_to_start_one_is_told(council: Council, words: list[str]) -> None:
    ended = council.run(*words, COUNCIL_PORT="9")
    assert ended.code == 1
    assert ended.out == ""
    assert "no master answers at http://127.0.0.1:9" in ended.err
    assert "council up" in ended.err


def test_something_else_on_the_port_is_told_apart(council: Council) -> None:
    with serving(FakeMaster(role="other")) as other:
        ended = council.run("models", "list", "--url", other.url)
    assert "not a council's master" in ended.err


def test_the_doctor_sees_a_healthy_cluster(council: Council, master: FakeMaster) -> None:
    council.run("worker", "add", "http://pc2:8001", "--url", master.url)
    ended = council.run("doctor", "--json", "--url", master.url, COUNCIL_PORT="0", COUNCIL_NODE_PORT="0")
    assert ended.code == 0
    findings = {one["what"]: one for one in json.loads(ended.out)["findings"]}
    assert findings["master"]["level"] == findings["models"]["level"] == findings["node pc2"]["level"] == "ok"


def test_the_doctor_sends_nobody_to_fetch_models_while_no_node_answers(
    council: Council, master: FakeMaster
) -> None:
    master.workers["pc2"] = {"name": "pc2", "url": "http://pc2:8001", "state": "unreachable", "engines": []}
    master.offered = []
    ended = council.run("doctor", "--url", master.url, COUNCIL_PORT="0", COUNCIL_NODE_PORT="0")
    assert ended.code == 1
    assert "none: no node answers" in ended.out
    assert "council worker remove pc2" in ended.out
    assert "models pull" not in ended.out


def test_the_doctor_names_a_misspelt_setting_and_a_missing_engine(
    council: Council, master: FakeMaster
) -> None:
    ended = council.run(
        "doctor", "--url", master.url, COUNCIL_PROT="8000", OLLAMA_BASE_URL="http://127.0.0.1:9"
    )
    assert ended.code == 1
    assert "did you mean COUNCIL_PORT?" in ended.out
    assert "http://127.0.0.1:9 does not answer" in ended.out
    assert "council worker add URL" in ended.out


def test_the_doctor_fails_on_a_master_that_is_named_and_away(council: Council) -> None:
    ended = council.run("doctor", "--url", "http://127.0.0.1:9")
    assert ended.code == 1
    assert "no master answers" in ended.out


def test_settings_are_shown_with_their_source_and_without_secrets(council: Council) -> None:
    ended = council.run("config", "show", "--json", COUNCIL_KEY=KEY, COUNCIL_PORT="8123")
    shown = json.loads(ended.out)
    assert shown["master"]["port"] == {"value": 8123, "source": "environment", "environment": "COUNCIL_PORT"}
    assert KEY not in ended.out
    assert KEY not in council.run("config", "show", COUNCIL_KEY=KEY).out


def test_a_wrong_setting_is_one_line(council: Council) -> None:
    ended = council.run("config", "show", COUNCIL_PORT="many")
    assert ended.code == 1
    assert ended.err.startswith("error: port (COUNCIL_PORT): ")
    assert "Traceback" not in ended.err


def test_a_new_key_is_long_enough_for_a_master(council: Council) -> None:
    key = council.run("config", "new-key").out.strip()
    assert council.run("config", "show", COUNCIL_KEY=key).code == 0
    assert len(key) >= 40


@pytest.mark.parametrize("words", [[], ["--help"], ["ask", "--help"], ["sessions", "-h"], ["--version"]])
def test_help_and_version_answer(council: Council, words: list[str]) -> None:
    ended = council.run(*words)
    assert ended.code == (0 if words else 2)
    assert "council" in ended.out + ended.err


def test_a_misspelt_command_is_a_usage_error_with_a_guess(council: Council) -> None:
    ended = council.run("aks", "why")
    assert ended.code == 2
    assert "ask" in ended.err


def test_an_engine_that_is_none_is_wrong_usage_of_the_command_that_was_typed(council: Council) -> None:
    ended = council.run("node", "start", "--engine", "foo")
    assert ended.code == 2
    assert "council node start" in ended.err
    assert "'embedded'" in ended.err
    assert "worker_node" not in ended.err


def test_models_are_recommended_where_no_master_runs(council: Council) -> None:
    for use, name in (("council", "qwen2.5:0.5b"), ("background", "llama3.2:3b")):
        ended = council.run("models", "recommended", "--for", use, "--json", COUNCIL_PORT="9")
        assert (ended.code, ended.err) == (0, "")
        models = json.loads(ended.out)["models"]
        assert name in [one["name"] for one in models]
        assert {one["installed"] for one in models} == {None}
    elsewhere = council.run("models", "recommended", "--url", "http://127.0.0.1:9")
    assert elsewhere.code == 1
