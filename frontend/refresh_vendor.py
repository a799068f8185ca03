"""Refresh or check `vendor/`, the page's libraries, byte-identical with their npm packages.

    python -m frontend.refresh_vendor --check     compare the files with VENDOR.lock (offline)
    python -m frontend.refresh_vendor             fetch each package, verify it, extract the files
    python -m frontend.refresh_vendor --update    the same, and write new checksums to the lock

To move to another version, change it in `PACKAGES` and run with `--update`.
"""

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).resolve().parent / "vendor"
LOCK = VENDOR / "VENDOR.lock"


@dataclass(frozen=True)
class Package:
    """One npm package: `files` maps a path inside of it to a path inside of `vendor/`."""

    name: str
    version: str
    licence: str
    files: dict[str, str]


PACKAGES = (
    Package(
        "preact",
        "11.2.0",
        "MIT",
        {
            "dist/preact.mjs": "preact/preact.mjs",
            "hooks/dist/hooks.mjs": "preact/hooks.mjs",
            "LICENSE": "preact/LICENSE",
        },
    ),
    Package(
        "@preact/signals",
        "2.11.4",
        "MIT",
        {"dist/signals.mjs": "signals/signals.mjs", "LICENSE": "signals/LICENSE"},
    ),
    Package(
        "@preact/signals-core",
        "1.14.5",
        "MIT",
        {
            "dist/signals-core.mjs": "signals-core/signals-core.mjs",
            "LICENSE": "signals-core/LICENSE",
        },
    ),
    Package("htm", "3.1.1", "Apache-2.0", {"dist/htm.mjs": "htm/htm.mjs", "LICENSE": "htm/LICENSE"}),
    Package(
        "marked",
        "18.2.1",
        "MIT",
        {"lib/marked.esm.js": "marked/marked.esm.js", "LICENSE": "marked/LICENSE"},
    ),
    Package(
        "dompurify",
        "3.4.18",
        "MPL-2.0 OR Apache-2.0",
        {
            "dist/purify.es.mjs": "dompurify/purify.es.mjs",
            "LICENSE": "dompurify/LICENSE",
            "LICENSE-MPL": "dompurify/LICENSE-MPL",
        },
    ),
    Package(
        "@highlightjs/cdn-assets",
        "11.12.0",
        "BSD-3-Clause",
        {"es/highlight.min.js": "highlight/highlight.min.js", "LICENSE": "highlight/LICENSE"},
    ),
    Package(
        "uplot",
        "1.6.32",
        "MIT",
        {
            "dist/uPlot.esm.js": "uplot/uPlot.esm.js",
            "dist/uPlot.min.css": "uplot/uPlot.min.css",
            "LICENSE": "uplot/LICENSE",
        },
    ),
)


def sha512(content: bytes) -> str:
    """A checksum in the form npm writes it: `sha512-` and the digest in base64."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def faults() -> list[str]:
    """What differs between `vendor/` and its lock file, one sentence each; empty when all is well."""
    found = []
    expected = {}
    for entry in json.loads(LOCK.read_text(encoding="utf-8"))["packages"]:
        for name, file in entry["files"].items():
            expected[name] = file["sha512"]
    for name, checksum in expected.items():
        path = VENDOR / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif sha512(path.read_bytes()) != checksum:
            found.append(f"{name} is not the file that VENDOR.lock names")
    for path in VENDOR.rglob("*"):
        name = path.relative_to(VENDOR).as_posix()
        if path.is_file() and name != LOCK.name and name not in expected:
            found.append(f"{name} is not listed in VENDOR.lock")
    return found


def fetch(package: Package, folder: Path) -> bytes:
    """The package's archive as npm delivers it; raises CalledProcessError when npm fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm was not found: install Node.js to refresh the page's libraries")
    command = [npm, "pack", "--silent", "--json", f"{package.name}@{package.version}"]
    answer = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    name: str = json.loads(answer.stdout)[0]["filename"]
    return (folder / name).read_bytes()


def extract(package: Package, archive: Path) -> dict[str, dict[str, str]]:
    """Write the package's chosen files into `vendor/` and return them as the lock lists them."""
    listed = {}
    with tarfile.open(archive) as tar:
        for source, target in package.files.items():
            member = tar.extractfile(f"package/{source}")
            if member is None:
                raise SystemExit(f"{package.name}@{package.version} holds no file {source}")
            content = member.read()
            path = VENDOR / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            listed[target] = {"from": source, "sha512": sha512(content)}
    return listed


def refresh(update: bool) -> None:
    """Fetch every package; without `update`, refuse an archive that the lock does not name."""
    locked = {}
    if LOCK.is_file():
        entries = json.loads(LOCK.read_text(encoding="utf-8"))["packages"]
        locked = {(entry["name"], entry["version"]): entry["integrity"] for entry in entries}
    packages = []
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as name:
            content = fetch(package, Path(name))
            integrity = sha512(content)
            if not update and locked.get((package.name, package.version)) != integrity:
                raise SystemExit(
                    f"{package.name}@{package.version} is not the archive that VENDOR.lock names; "
                    "run with --update if the change is meant"
                )
            archive = Path(name) / "archive.tgz"
            archive.write_bytes(content)
            packages.append(
                {
                    "name": package.name,
                    "version": package.version,
                    "integrity": integrity,
                    "licence": package.licence,
                    "files": extract(package, archive),
                }
            )
    LOCK.write_text(json.dumps({"packages": packages}, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Run the command; the exit code is 0 when `vendor/` and its lock agree."""
    parser = argparse.ArgumentParser(description="Refresh or check the page's libraries.")
    parser.add_argument("--check", action="store_true", help="only compare, fetch nothing")
    parser.add_argument("--update", action="store_true", help="accept new archives into the lock")
    chosen = parser.parse_args()
    if not chosen.check:
        refresh(chosen.update)
    found = faults()
    sys.stdout.write("".join(f"{fault}\n" for fault in found) or "vendor/ and its lock agree\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
