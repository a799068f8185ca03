"""Settings: defaults < file < environment < flags, and no misspelling passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import SettingsError
from common.master_settings import MasterSettings
from common.node_settings import NodeSettings
from common.security import new_key
from common.settings import require_key_off_loopback


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("COUNCIL_", "OLLAMA_", "BG_")) or name == "GENERATION_TIMEOUT":
            monkeypatch.delenv(name)


def write(folder: Path, text: str) -> Path:
    path = folder / "council.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_users_names_are_read_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENERATION_TIMEOUT", "33")
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "7")
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://pc2:11434")
    assert MasterSettings.load("master").generation_timeout_s == 33
    node = NodeSettings.load("node")
    assert (node.num_parallel, node.ollama_base_url) == (7, "http://pc2:11434")


def test_flags_beat_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[master]\nport = 1\nname = 'file'\nheartbeat_s = 9\n")
    monkeypatch.setenv("COUNCIL_PORT", "2")
    monkeypatch.setenv("COUNCIL_NAME", "environment")
    settings = MasterSettings.load("master", config=path, flags={"port": 3, "name": None})
    assert (settings.port, settings.name, settings.heartbeat_s) == (3, "environment", 9)


def test_a_plain_name_in_the_environment_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "99")
    monkeypatch.setenv("NAME", "somebody")
    assert MasterSettings.load("master").port == 8000
    assert NodeSettings.load("node").name is None


@pytest.mark.parametrize(
    "text", ["[master]\nprt = 1\n", "port = 1\n", "[nodes]\n", "[master\n", "[master]\nport = 'x'\n"]
)
def test_what_is_misspelt_in_the_file_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        MasterSettings.load("master", config=write(tmp_path, text))


def test_a_list_in_the_environment_is_cut_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNCIL_NODES", "pc2=http://192.168.1.20:8001, http://192.168.1.21:8001")
    assert MasterSettings.load("master").nodes == ["pc2=http://192.168.1.20:8001", "http://192.168.1.21:8001"]


def test_off_loopback_a_key_is_required_and_the_error_says_how() -> None:
    require_key_off_loopback(host="127.0.0.1", key=None, insecure_lan=False, program="master")
    require_key_off_loopback(host="0.0.0.0", key="k" * 20, insecure_lan=False, program="node")
    require_key_off_loopback(host="0.0.0.0", key=None, insecure_lan=True, program="node")
    with pytest.raises(SettingsError, match="COUNCIL_NODE_KEY"):
        require_key_off_loopback(host="192.168.1.5", key=None, insecure_lan=False, program="node")


def test_a_short_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNCIL_KEY", "short")
    with pytest.raises(SettingsError, match="16"):
        MasterSettings.load("master")


@pytest.mark.parametrize(
    "key",
    ["a" * 16, "abababababababab", "abcde" * 8, "passwordpassword", "1234567812345678", "aaaaaaaaaaaaaaab"],
)
@pytest.mark.parametrize(("program", "name"), [("master", "COUNCIL_KEY"), ("node", "COUNCIL_NODE_KEY")])
def test_a_long_key_that_is_easily_guessed_is_refused_and_the_error_tells_what_to_type(
    monkeypatch: pytest.MonkeyPatch, program: str, name: str, key: str
) -> None:
    monkeypatch.setenv(name, key)
    with pytest.raises(SettingsError, match=r"council config new-key") as refused:
        (MasterSettings if program == "master" else NodeSettings).load(program)
    assert key not in refused.value.detail


@pytest.mark.parametrize(
    "key", ["the key of the people of this house", "5d41402abc4b2a76", "4929130756018824", ""]
)
def test_a_key_that_takes_long_to_guess_is_taken(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    taken = key or new_key()  # made here, since each run of the tests names its cases by their parameters
    monkeypatch.setenv("COUNCIL_KEY", taken)
    assert MasterSettings.load("master").key == taken


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "configs").glob("*.toml")))
def test_a_shipped_config_loads(path: Path) -> None:
    assert MasterSettings.load("master", config=path)
    assert NodeSettings.load("node", config=path)


def test_the_names_of_background_work_are_read_exactly_with_the_defaults_that_users_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = MasterSettings.load("master")
    assert (found.bg_idle_threshold_s, found.bg_long_idle_threshold_s) == (300, 1800)
    assert (found.bg_overnight, found.bg_overnight_start, found.bg_overnight_end) == (False, 22, 6)
    assert (found.bg_max_memory, found.bg_max_cpu) == (0.75, 0.5)
    assert (found.bg_enable_lora, found.bg_lora_lr, found.bg_lora_batch) == (False, 1e-4, 4)
    assert (found.bg_lora_r, found.bg_lora_alpha) == (8, 16)
    for name, value in {"BG_IDLE_THRESHOLD": "60", "BG_MAX_CPU": "0.7", "BG_OVERNIGHT": "true"}.items():
        monkeypatch.setenv(name, value)
    changed = MasterSettings.load("master")
    assert (changed.bg_idle_threshold_s, changed.bg_max_cpu, changed.bg_overnight) == (60, 0.7, True)


def test_training_that_does_not_exist_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_ENABLE_LORA", "true")
    with pytest.raises(SettingsError, match=r"trainer of adapters.*does not exist yet.*BG_ENABLE_LORA"):
        MasterSettings.load("master")


def test_a_refused_value_is_told_by_the_name_that_people_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNCIL_KEY", "short")
    with pytest.raises(SettingsError) as refused:
        MasterSettings.load("master")
    assert refused.value.detail.startswith("key (COUNCIL_KEY): a key needs at least 16 characters")
