"""The practice models: what they can say, and how their files come to be."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from worker_node.practice import FOLDER, is_practice, write_practice_models
from worker_node.practice_model import write_gguf
from worker_node.practice_text import PRACTICE_TAG, TEMPERAMENTS, Temperament, Walk, compile_text
from worker_node.practice_tokenizer import BYTE_CHARACTERS, spelled, train_merges, vocabulary

WRITER = (
    "import sys; from pathlib import Path; from worker_node.practice import write_practice_models; "
    "sys.stdin.readline(); write_practice_models(Path(sys.argv[1]))"
)


@pytest.fixture(scope="module")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models, which cost a second to write. To be copied where it is changed."""
    folder = tmp_path_factory.mktemp("practice")
    write_practice_models(folder)
    return folder


def walk_once(walk: Walk, choose: random.Random) -> list[str]:
    said: list[str] = []
    at = Walk.START
    while True:
        followers = walk.edges[at]
        at = choose.choices(list(followers), list(followers.values()))[0]
        if at == Walk.END:
            return said
        said.append(at)


@pytest.mark.parametrize("temperament", TEMPERAMENTS, ids=lambda one: one.name)
class TestText:
    def test_an_answer_is_between_40_and_140_phrases(self, temperament: Temperament) -> None:
        walk = compile_text(temperament.answer, set())
        lengths = [len(walk_once(walk, random.Random(seed))) for seed in range(300)]
        assert 40 <= min(lengths)
        assert max(lengths) <= 140

    def test_no_walk_comes_back_to_a_phrase_so_every_text_ends(self, temperament: Temperament) -> None:
        taken: set[str] = set()
        for text in (temperament.answer, temperament.critique):
            walk = compile_text(text, taken)
            finished: set[str] = set()

            def visit(phrase: str, above: tuple[str, ...], walk: Walk, finished: set[str]) -> None:
                assert phrase not in above
                if phrase in finished or phrase == Walk.END:
                    return
                for follower in walk.edges[phrase]:
                    visit(follower, (*above, phrase), walk, finished)
                finished.add(phrase)

            visit(Walk.START, (), walk, finished)

    def test_probabilities_of_what_follows_sum_to_one(self, temperament: Temperament) -> None:
        walk = compile_text(temperament.answer, set())
        assert all(sum(row.values()) == pytest.approx(1.0) for row in walk.edges.values())

    def test_the_text_is_readable(self, temperament: Temperament) -> None:
        text = "".join(walk_once(compile_text(temperament.answer, set()), random.Random(3)))
        assert text[0].isupper()
        assert text[-1] in ".!"
        assert "  " not in text
        assert not set("(|)¶") & set(text)

    def test_a_critique_fits_a_ballots_string(self, temperament: Temperament) -> None:
        walk = compile_text(temperament.critique, set())
        texts = ["".join(walk_once(walk, random.Random(seed))) for seed in range(100)]
        assert max(map(len, texts)) <= 300
        assert not any('"' in text or "\n" in text for text in texts)


def test_a_word_that_stands_elsewhere_is_glued_to_the_next() -> None:
    walk = compile_text(["The owl saw the fox.", "The owl slept."], set())
    assert walk_once(walk, random.Random(0)) == [
        "The", " owl", " saw", " the", " fox.", " The", " owl slept.",
    ]  # fmt: skip


def test_a_text_that_ends_ambiguously_is_refused() -> None:
    with pytest.raises(ValueError, match="stands elsewhere"):
        compile_text(["so so so"], set())


def test_every_byte_has_a_character_of_its_own() -> None:
    assert len(set(BYTE_CHARACTERS)) == 256
    assert all(len(one) == 1 and not one.isspace() for one in BYTE_CHARACTERS)


def test_a_vocabulary_spells_every_text() -> None:
    merges = train_merges(["the theme of the thesis"], 10)
    tokens = vocabulary(merges, [" a phrase"])
    assert {char for char in spelled("你好 🙂\x00\n\u2028")} <= set(tokens)
    assert spelled(" a phrase") in tokens
    assert len(tokens) == len(set(tokens))


def test_merges_are_ordered_so_that_parts_come_before_the_whole() -> None:
    known = set(BYTE_CHARACTERS)
    for left, right in train_merges(["hello hello help held"], 20):
        assert left in known
        assert right in known
        known.add(left + right)


@pytest.mark.no_cover
def test_the_same_model_is_the_same_bytes(tmp_path: Path, practice: Path) -> None:
    for temperament in TEMPERAMENTS:
        again = tmp_path / "again.gguf"
        write_gguf(again, temperament)
        (one,) = practice.rglob(f"{temperament.name}.gguf")
        assert one.read_bytes() == again.read_bytes()


def test_three_models_are_written_that_differ_and_are_small(practice: Path) -> None:
    paths = write_practice_models(practice)
    assert [path.stem for path in paths] == ["practice-owl", "practice-fox", "practice-bee"]
    contents = [path.read_bytes() for path in paths]
    assert all(one != two for one, two in pairwise(contents))
    assert all(len(content) < 4_000_000 for content in contents)


def test_models_that_are_there_are_not_written_again(practice: Path) -> None:
    before = [path.stat().st_mtime_ns for path in write_practice_models(practice)]
    assert [path.stat().st_mtime_ns for path in write_practice_models(practice)] == before


@pytest.mark.no_cover
def test_a_missing_model_is_written_anew(tmp_path: Path, practice: Path) -> None:
    shutil.copytree(practice, tmp_path, dirs_exist_ok=True)
    owl, *_ = write_practice_models(tmp_path)
    content = owl.read_bytes()
    owl.unlink()
    write_practice_models(tmp_path)
    assert owl.read_bytes() == content


@pytest.mark.no_cover
def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path, practice: Path) -> None:
    shutil.copytree(practice, tmp_path, dirs_exist_ok=True)
    (tmp_path / FOLDER / "practice-owl.gguf").unlink()
    left_over = tmp_path / FOLDER / "practice-owl.0badcafe.part"
    left_over.write_bytes(b"GGUF")
    write_practice_models(tmp_path)
    assert not left_over.exists()


def test_two_processes_that_write_at_once_leave_whole_files(tmp_path: Path, practice: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "shared")], stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    for writer in writers:  # both have imported and wait: now at once
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    alone = write_practice_models(practice)
    shared = tmp_path / "shared" / FOLDER
    assert {path.name: path.read_bytes() for path in alone} == {
        path.name: path.read_bytes() for path in shared.glob("*.gguf")
    }
    assert not list(shared.glob("*.part"))


def test_a_practice_model_is_known_wherever_it_was_copied(tmp_path: Path, practice: Path) -> None:
    owl, *_ = write_practice_models(practice)
    copy = tmp_path / "my-precious.gguf"
    copy.write_bytes(owl.read_bytes())
    assert is_practice(copy)
    assert PRACTICE_TAG.encode() in owl.read_bytes()


def test_other_files_are_no_practice_models(tmp_path: Path) -> None:
    junk = tmp_path / "practice-owl.gguf"
    junk.write_bytes(b"junk")
    assert not is_practice(junk)
    assert not is_practice(tmp_path / "absent.gguf")
