"""What the static server is told: files, types, headers; and that the libraries are the locked ones."""

import re
import shutil
import subprocess

import pytest

import frontend
from frontend.refresh_vendor import faults


@pytest.mark.parametrize("path", ["/", "/index.html", "/assets/icon.svg", "/assets/src/main.js"])
def test_the_pages_files_are_found(path: str) -> None:
    asset = frontend.find_asset(path)
    assert asset is not None
    assert asset.suffix in frontend.MEDIA_TYPES


@pytest.mark.parametrize(
    "path",
    [
        "/assets/__init__.py",
        "/assets/tsconfig.json",
        "/assets/vendor/VENDOR.lock",
        "/assets/src/../__init__.py",
        "/assets/src/../../pyproject.toml",
        "/assets//etc/passwd",
        "/assets/src/..\\__init__.py",
        "/assets/src/C:/windows",
        "/assets/src",
        "/assets/",
        "/other",
        "/assets/src/missing.js",
    ],
)
def test_nothing_else_is_served(path: str) -> None:
    assert frontend.find_asset(path) is None


def test_the_policy_forbids_inline_code_and_other_hosts() -> None:
    policy = frontend.content_security_policy()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert re.search(r"script-src 'self' 'sha256-[A-Za-z0-9+/]{43}='", policy)


def test_every_name_of_the_import_map_is_a_file() -> None:
    page = (frontend.ASSETS / "index.html").read_text(encoding="utf-8")
    paths = re.findall(r'"\./(assets/[^"]+)"', page)
    assert len(paths) > 10
    assert [path for path in paths if frontend.find_asset(f"/{path}") is None] == []


def test_the_libraries_are_byte_for_byte_the_locked_ones() -> None:
    assert faults() == []


def test_no_own_file_holds_inline_styles_or_evaluates_text() -> None:
    own = [path for path in frontend.ASSETS.rglob("src/**/*.js")]
    assert own
    found = [
        path.name
        for path in own
        if re.search(
            r"\sstyle=|\beval\(|new Function|innerHTML\s*=|https?://", path.read_text(encoding="utf-8")
        )
    ]
    assert found == []


def test_the_types_of_the_page_hold() -> None:
    tsc = shutil.which("tsc")
    if tsc is None:
        pytest.skip("no TypeScript: npm install --global typescript")
    answer = subprocess.run(
        [tsc, "-p", str(frontend.ASSETS)], check=False, capture_output=True, text=True, timeout=100
    )
    assert answer.returncode == 0, answer.stdout
