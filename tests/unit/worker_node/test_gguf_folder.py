"""What the models folder offers, and what it makes of files that are no models."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.random_weights import write_noise
from worker_node.engines.gguf_folder import GgufFolder
from worker_node.gguf_header import read_header
from worker_node.practice import write_practice_models


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without the practice tag."""
    path = tmp_path_factory.mktemp("real") / "noise.gguf"
    write_noise(path)
    return path


@pytest.fixture(scope="module")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the practice models, which cost a second to write. To be copied."""
    folder = tmp_path_factory.mktemp("practice")
    write_practice_models(folder)
    return folder


def write_encoder(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(512)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_empty_folder_gets_practice_models(tmp_path: Path) -> None:
    models = GgufFolder(tmp_path / "new", allow_practice=True).scan()
    assert sorted(models) == ["practice-bee", "practice-fox", "practice-owl"]
    assert all(model.practice for model in models.values())
    assert all(model.header.context_length >= 8192 for model in models.values())


def test_without_leave_for_practice_an_empty_folder_stays_empty(tmp_path: Path) -> None:
    assert GgufFolder(tmp_path, allow_practice=False).scan() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_real_model_takes_the_place_of_practice_models_and_gives_it_back(
    tmp_path: Path, real: Path, practice: Path
) -> None:
    shutil.copytree(practice, tmp_path, dirs_exist_ok=True)
    folder = GgufFolder(tmp_path, allow_practice=True)
    assert len(folder.scan()) == 3
    shutil.copy(real, tmp_path / "noise.gguf")
    assert list(folder.scan()) == ["noise"]
    (tmp_path / "noise.gguf").unlink()
    assert len(folder.scan()) == 3


def test_no_practice_model_is_written_beside_a_real_one(tmp_path: Path, real: Path) -> None:
    shutil.copy(real, tmp_path / "noise.gguf")
    GgufFolder(tmp_path, allow_practice=True).scan()
    assert [path.name for path in tmp_path.iterdir()] == ["noise.gguf"]


def test_an_encoder_only_embeds_and_does_not_replace_practice_models(tmp_path: Path, practice: Path) -> None:
    shutil.copytree(practice, tmp_path, dirs_exist_ok=True)
    write_encoder(tmp_path / "tiny-encoder.gguf")
    models = GgufFolder(tmp_path, allow_practice=True).scan()
    assert models["tiny-encoder"].capabilities == ["embedding"]
    assert len(models) == 4


def test_a_model_in_parts_is_one_model(tmp_path: Path, real: Path) -> None:
    for part in (1, 2):
        shutil.copy(real, tmp_path / f"big-{part:05}-of-00002.gguf")
    models = GgufFolder(tmp_path, allow_practice=False).scan()
    assert list(models) == ["big"]
    assert models["big"].size == 2 * real.stat().st_size


def test_an_image_projector_is_no_model(tmp_path: Path, real: Path) -> None:
    shutil.copy(real, tmp_path / "mmproj-noise.gguf")
    assert GgufFolder(tmp_path, allow_practice=False).scan() == {}


def test_a_damaged_file_is_not_offered_and_known_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03")
    folder = GgufFolder(tmp_path, allow_practice=False)
    assert folder.scan() == {}
    assert folder.damaged("broken") == tmp_path / "broken.gguf"
    assert folder.damaged("absent") is None


def test_a_file_that_is_replaced_is_read_again(tmp_path: Path, real: Path) -> None:
    path = tmp_path / "late.gguf"
    path.write_bytes(b"half")
    folder = GgufFolder(tmp_path, allow_practice=False)
    assert folder.scan() == {}
    shutil.copy(real, path)
    assert list(folder.scan()) == ["late"]
    assert folder.damaged("late") is None


def test_practice_models_that_cannot_be_written_leave_an_empty_list(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert GgufFolder(blocked / "models", allow_practice=True).scan() == {}


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_as_a_value_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 5) + tail)
    try:
        header = read_header(path)
    except ValueError:
        return
    assert header.architecture == "" or isinstance(header.architecture, str)


@pytest.mark.parametrize("length", [0, 3, 4, 23, 24, 31, 40, 100, 200, 300])
def test_a_header_cut_anywhere_is_refused(tmp_path: Path, practice: Path, length: int) -> None:
    whole = next(practice.rglob("*.gguf")).read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match="GGUF"):
        read_header(path)


def test_a_file_of_the_catalogue_has_the_name_that_people_ask_for(tmp_path: Path, real: Path) -> None:
    """Whether `council models get` brought it or a person copied it there."""
    shutil.copy(real, tmp_path / "Qwen2.5-0.5B-Instruct-Q4_K_M.gguf")
    assert list(GgufFolder(tmp_path, allow_practice=True).scan()) == ["qwen2.5:0.5b"]
