"""The pages tell the truth as far as a program can check it: generated parts, links, commands, names."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import BY_CODE
from master.council.states import TRANSITIONS
from tests.docs.__main__ import ROOT, generated
from tests.docs.generate_cli import commands, options_of
from tests.docs.generate_settings import undocumented

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROWS = [
    f"{letter}{number}"
    for letter, count in {"A": 16, "B": 8, "C": 9, "D": 7, "E": 6, "F": 5}.items()
    for number in range(1, count + 1)
]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "text"), generated().items(), ids=generated().keys())
def test_what_is_generated_is_what_the_code_says(path: str, text: str) -> None:
    assert read(path) == text, f"{path} is stale: run `make docs`"


def test_every_setting_has_a_description() -> None:
    assert list(undocumented()) == []


def test_the_diagram_draws_the_moves_that_exist_and_no_other() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", read("docs/architecture.md"), re.MULTILINE))
    assert drawn == {(str(before), str(after)) for before, all_ in TRANSITIONS.items() for after in all_}


def test_every_error_that_can_be_sent_stands_in_the_api_page() -> None:
    abstract = {"retry", "request"}
    told = set(re.findall(r"^\| `(\w+)` \| \d{3} \|", read("docs/api.md"), re.MULTILINE))
    assert told == BY_CODE.keys() - abstract


def test_every_event_that_is_sent_has_an_example_and_no_other() -> None:
    page = read("docs/api.md").partition("<!-- events -->")[2].partition("```\n")[0]
    told = set(re.findall(r'^\{"type": "([\w.]+)"', page, re.MULTILINE))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "master/council").glob("*.py"))
    sent = set(
        re.findall(
            r'(?:"type": |_tell\()"((?:session|stage|call|ballot|ranking)\.\w+|warning|snapshot)"', code
        )
    )
    assert told == sent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in text.splitlines() if line.startswith("#")}  # fmt: skip
        assert anchor in headings, f"{page.name} links to #{anchor}"


def _typed(text: str) -> Iterator[list[str]]:
    """What a page tells readers to type after `council`, from console blocks and from `code`."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    for line in [*lines, *re.findall(r"`((?:[A-Z_]+=\S+ )*council [^`]+)`", text)]:
        line = line.split("#")[0].split("|")[0].replace("…", "X")
        match = re.match(r"^(?:[A-Z_]+=\S+ )*(?:\S*/)?council (.*)$", line)
        if match is not None and "[OPTIONS]" not in line:
            yield shlex.split(match[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_that_is_told_exists_with_its_options(page: Path) -> None:
    known = dict(commands())
    groups = {path.split()[0] for path in known if " " in path}
    for words in _typed(page.read_text(encoding="utf-8")):
        if words[0].startswith("--"):
            continue
        path = " ".join(words[: 2 if words[0] in groups else 1])
        assert path in known or path in groups, f"{page.name}: no command `council {' '.join(words)}`"
        if path in known:
            used = {word.split("=")[0] for word in words if word.startswith("-") and word != "-"}
            assert used <= options_of(known[path]), f"{page.name}: `council {' '.join(words)}`"


def test_every_requirement_has_one_row_and_a_known_state() -> None:
    rows = re.findall(
        r"^\| ([A-F]\d+) \| .+? \| (done|in part|not yet)\b", read("docs/requirements.md"), re.MULTILINE
    )
    assert [row for row, _ in rows] == ROWS


def test_every_test_named_in_the_requirements_exists() -> None:
    page = read("docs/requirements.md")
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page):
        assert (ROOT / path).is_file(), path
        if name:
            assert re.search(rf"def {name}\b", read(path)), f"{path} has no {name}"


def test_what_is_done_names_a_test() -> None:
    for line in read("docs/requirements.md").splitlines():
        row = re.match(r"^\| ([A-F]\d+) \| .+? \| done\b.*? \| (.*) \|$", line)
        assert row is None or "`tests/" in row[2], line


def test_every_dependency_has_its_reason_and_no_other_is_told() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    needed = {re.split(r"[\[<>=;]", one)[0].strip() for one in project["dependencies"]}
    page = read("docs/decisions/0002-dependencies.md")
    assert set(re.findall(r"^\| ([a-z0-9-]+) \| \S", page, re.MULTILINE)) - {"package"} == needed
    for one in project["optional-dependencies"]["dev"]:
        name = re.split(r"[\[<>=;]", one)[0].strip()
        assert re.search(rf"\b{name}\b", page.partition("For development:")[2]), name


def test_decisions_are_numbered_and_have_their_four_parts() -> None:
    found = sorted((ROOT / "docs/decisions").glob("*.md"))
    numbers = [path.name[:4] for path in found]  # gaps are free for those who write at the same time
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d{4}", number) for number in numbers)
    for path in found:
        headings = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert headings == ["Context", "Choice", "Cost", "When to revisit"], path.name
