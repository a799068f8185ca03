"""The catalogue covers the recommended models, under every spelling, and takes other files by their place."""

from __future__ import annotations

import re

import pytest

from common.errors import ModelNotFoundError
from common.gguf_catalogue import CATALOGUE, NAME_OF_FILE, find_source, require_source
from master.council.choice import RECOMMENDED


@pytest.mark.parametrize("name", [one.name for one in RECOMMENDED])
def test_every_recommended_model_can_be_fetched(name: str) -> None:
    assert find_source(name) is not None


@pytest.mark.parametrize("name", ["phi3.5", "phi3.5:mini", "Phi3.5:latest", " phi3.5:mini "])
def test_both_spellings_of_the_chairman_are_one_file(name: str) -> None:
    assert require_source(name).file == "Phi-3.5-mini-instruct-Q4_K_M.gguf"


def test_every_entry_states_size_checksum_and_licence() -> None:
    for one in CATALOGUE:
        assert one.size is not None
        assert one.size < 4 * 10**9
        assert re.fullmatch(r"[0-9a-f]{64}", one.sha256 or "")
        assert one.licence
        assert one.licence_url.startswith("https://")
    assert len({one.sha256 for one in CATALOGUE}) == len(NAME_OF_FILE) == len(CATALOGUE)


def test_a_file_of_the_hub_is_named_by_its_place() -> None:
    source = require_source("hf:some-one/Some.Model-GGUF/q4/model-Q4_K_M.gguf")
    assert (source.repository, source.file) == ("some-one/Some.Model-GGUF", "q4/model-Q4_K_M.gguf")
    assert (source.name, source.local_file) == ("model-Q4_K_M", "model-Q4_K_M.gguf")
    assert source.sha256 is None


def test_the_first_part_stands_for_all() -> None:
    source = require_source("hf:a/b/x-00001-of-00003.gguf")
    assert source.files == tuple(f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3))
    assert source.name == "x"


@pytest.mark.parametrize(
    "name",
    ["", "gpt-4", "hf:", "hf:a/b", "hf:a/b/c.bin", "hf:a/../b/c.gguf", "hf:a/b/../c.gguf", "hf:/a/b/c.gguf",
     "hf:a/b/.gguf", "hf:a/b/c.gguf?x", "hf:a/b\\c.gguf"],
)  # fmt: skip
def test_what_is_no_file_of_the_hub_is_refused_with_the_names_that_are(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"qwen2\.5:0\.5b"):
        require_source(name)
