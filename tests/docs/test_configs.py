"""What is shipped in configs/ says what the programs do without it."""

from __future__ import annotations

import os

import pytest

from common.master_settings import MasterSettings
from common.node_settings import NodeSettings
from tests.docs.__main__ import ROOT
from tests.docs.generate_settings import OF_THE_COMMAND

CONFIGS = ROOT / "configs"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("COUNCIL_", "OLLAMA_", "BG_")) or name == "GENERATION_TIMEOUT":
            monkeypatch.delenv(name)


def sample() -> dict[str, str]:
    lines = (CONFIGS / ".env.sample").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_shipped_worker_admits_five_and_five() -> None:
    node = NodeSettings.load("node", config=CONFIGS / "worker.toml")
    assert (node.num_parallel, node.max_loaded_models) == (5, 5)


@pytest.mark.parametrize("name", ["master.toml", "worker.toml"])
def test_what_is_shipped_differs_from_no_default_but_the_address_of_ollama(name: str) -> None:
    for table, model in (("master", MasterSettings), ("node", NodeSettings)):
        shipped = model.load(table, config=CONFIGS / name).model_dump()
        default = model.load(table).model_dump()
        differing = {key for key, value in shipped.items() if value != default[key]}
        assert differing <= {"ollama_base_url"}, differing


def test_two_engines_are_two_addresses() -> None:
    node = NodeSettings.load("node", config=CONFIGS / "two-engines.toml")
    assert node.ollama_base_url is not None
    assert node.ollama_base_url.endswith(":11434")
    assert node.ollama_background_base_url is not None
    assert node.ollama_background_base_url.endswith(":11435")


def test_the_sample_lists_every_variable_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    known = set(OF_THE_COMMAND)
    for model in (MasterSettings, NodeSettings):
        known |= {model.environment_name(field) for field in model.model_fields}
    assert sample().keys() == known
    defaults = MasterSettings.load("master"), NodeSettings.load("node")
    for name, value in sample().items():
        monkeypatch.setenv(name, value)
    assert (MasterSettings.load("master"), NodeSettings.load("node")) == defaults
