"""The command with the real master, the real node and the practice models that it writes itself."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from common.certificates import Authority
from tests.service.cli.command import Council

QUESTION = "Why is the sky blue?"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process there")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def quiet(council: Council) -> dict[str, Any]:
    """An environment in which no master or engine of this machine is found."""
    return {"COUNCIL_PORT": str(free_port()), "COUNCIL_NODE_PORT": "0", "COUNCIL_NODE_ENGINE": "embedded"}


def wait_for_line(process: subprocess.Popen[bytes], pattern: str) -> str:
    assert process.stdout is not None
    for raw in process.stdout:
        line = raw.decode()
        if re.search(pattern, line):
            return line
    assert process.stderr is not None
    pytest.fail(f"it ended without {pattern!r}: {process.stderr.read().decode()}")


def children_left(home: Path) -> list[str]:
    """Command lines of programs that still use this home."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if str(home) in process.environ().get("COUNCIL_DATA_DIR", "") and process.pid > 1:
                found.append(" ".join(line))
        except psutil.Error:
            continue
    return found


def until_none_left(home: Path) -> list[str]:
    deadline = time.monotonic() + 15
    while (left := children_left(home)) and time.monotonic() < deadline:
        time.sleep(0.1)  # another process ends: there is no event to wait for
    return left


def test_ask_brings_up_a_council_of_its_own_and_leaves_nothing_behind(
    council: Council, quiet: dict[str, Any], tmp_path: Path
) -> None:
    ended = council.run("ask", QUESTION, timeout=110, **quiet)
    assert ended.code == 0, ended.err
    assert "starting a local council" in ended.err
    assert "Stage 3 of 3" in ended.out
    assert "Practice models answered" in ended.out
    assert until_none_left(tmp_path) == []


def test_ctrl_c_while_a_council_starts_leaves_nothing_behind(
    council: Council, quiet: dict[str, Any], tmp_path: Path
) -> None:
    with council.start("ask", QUESTION, **quiet) as process:
        assert process.stderr is not None
        assert b"starting a local council" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert until_none_left(tmp_path) == []


def test_a_folder_called_master_is_not_run_instead_of_ours(
    council: Council, quiet: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("master", "worker_node"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong program')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "master.cli", "ask", QUESTION, "--json"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=council.environment(**quiet),
        cwd=tmp_path,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["practice"] is True


def test_a_data_folder_that_cannot_be_written_is_one_clear_failure(
    council: Council, quiet: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    ended = council.run("ask", QUESTION, **quiet)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert str(tmp_path / "data") in ended.err


def test_one_council_is_up_found_used_and_guarded_against_a_second(
    council: Council, quiet: dict[str, Any], tmp_path: Path
) -> None:
    with council.start("up", "--no-browser", **quiet) as process:
        url = wait_for_line(process, "The council is at").split()[-1]
        assert url.endswith(f":{quiet['COUNCIL_PORT']}")
        wait_for_line(process, "Ready")

        second = council.run("up", "--no-browser", **quiet)
        assert second.code == 1
        assert f"a council runs already at {url}" in second.err
        assert "--port" in second.err

        elsewhere = council.run("up", "--no-browser", "--port", "0", **quiet)
        assert elsewhere.code == 1
        assert f"is used by the council at {url}" in elsewhere.err

        # Another port in the environment: the council is found by its note in the data folder.
        found = council.run("ask", QUESTION, "--json", **{**quiet, "COUNCIL_PORT": "9"})
        assert found.code == 0, found.err
        assert "starting" not in found.err
        session = json.loads(found.out)
        assert session["result"] == "full"

        ended = council.run("ask", "And at night?", "--conversation", session["conversation_id"], **quiet)
        assert ended.code == 0, ended.err
        assert "night" in council.run("sessions", "list", **quiet).out
        assert "practice" in council.run("models", "list", **quiet).out
        assert "local" in council.run("worker", "list", **quiet).out
        assert council.run("worker", "show", "local", **quiet).code == 0
        assert council.run("models", "recommended", **quiet).code == 0
        assert "# " in council.run("sessions", "export", session["id"], **quiet).out
        unknown = council.run("ask", QUESTION, "--agent", "nonesuch", **quiet)
        assert (unknown.code, "nonesuch" in unknown.err) == (1, True)
        assert council.run("ask", "x" * 100_000, **quiet).code == 2
        assert council.run("ask", QUESTION, "--option", "num_ctx=1", **quiet).code == 2
        pulled = council.run("models", "pull", "nonesuch", **quiet)
        assert (pulled.code, "hf:OWNER/REPO/FILE.gguf" in pulled.err) == (1, True)
        checked = council.run("doctor", **quiet)
        assert checked.code == 0, checked.out
        assert "only practice models" in checked.out

        process.send_signal(signal.SIGINT)
        assert process.wait(50) == 0
    assert until_none_left(tmp_path) == []
    assert not (tmp_path / "data" / "master.json").exists()


def test_a_taken_port_names_its_holder(council: Council, quiet: dict[str, Any]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", int(quiet["COUNCIL_PORT"])))
        holder.listen()
        ended = council.run("up", "--no-browser", **quiet)
    assert ended.code == 1
    assert f"port {quiet['COUNCIL_PORT']} is taken by process" in ended.err


def test_off_loopback_a_key_is_required_before_anything_starts(
    council: Council, quiet: dict[str, Any]
) -> None:
    ended = council.run("up", "--host", "0.0.0.0", "--no-browser", **quiet)
    assert ended.code == 1
    assert "council config new-key" in ended.err


def test_a_council_for_other_machines_names_both_addresses(council: Council, quiet: dict[str, Any]) -> None:
    quiet["COUNCIL_KEY"] = "lc_0123456789abcdef"
    with council.start("up", "--host", "0.0.0.0", "--no-browser", **quiet) as process:
        assert f"https://127.0.0.1:{quiet['COUNCIL_PORT']}" in wait_for_line(process, "The council is at")
        assert "0.0.0.0" not in wait_for_line(process, "Other machines")
        wait_for_line(process, "Ready")
        assert council.run("models", "list", **quiet).code == 0
        assert council.run("models", "list", "--key", "wrong", **{**quiet, "COUNCIL_KEY": ""}).code == 1
        stranger = {"COUNCIL_DATA_DIR": str(council.home / "elsewhere"), "COUNCIL_KEY": quiet["COUNCIL_KEY"]}
        untrusted = council.run(
            "models", "list", "--url", f"https://127.0.0.1:{quiet['COUNCIL_PORT']}", **stranger
        )
        assert (untrusted.code, "export-ca" in untrusted.err) == (1, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(50) == 0


def persons_certificate(folder: Path, name: str) -> dict[str, str]:
    """A certificate that names only `name`, of an authority that nobody here trusts, as settings."""
    chain = Authority.make(name, now=datetime.now(UTC)).issue_with_key([name], datetime.now(UTC))
    end = "-----END PRIVATE KEY-----\n"
    key, _, certificates = chain.partition(end)
    (folder / "key.pem").write_text(key + end)
    (folder / "cert.pem").write_text(certificates)
    return {"COUNCIL_TLS_CERT": str(folder / "cert.pem"), "COUNCIL_TLS_KEY": str(folder / "key.pem")}


def test_a_council_whose_certificate_names_another_host_is_used_from_its_own_machine(
    council: Council, quiet: dict[str, Any], tmp_path: Path
) -> None:
    quiet["COUNCIL_KEY"] = "lc_0123456789abcdef"
    certificate = persons_certificate(tmp_path, "council.example.org")
    with council.start("up", "--host", "0.0.0.0", "--no-browser", **quiet, **certificate) as process:
        url = wait_for_line(process, "The council is at").split()[-1]
        wait_for_line(process, "Ready")
        told = council.run("worker", "token", **quiet)
        assert (told.code, "council node start --join" in told.out) == (0, True), told.err
        # The address that was printed, its socket, and the doctor work as well.
        asked = council.run("ask", QUESTION, "--json", "--url", url, **quiet)
        assert (asked.code, "starting" in asked.err) == (0, False), asked.err
        assert council.run("doctor", **quiet).code == 0
        second = council.run("up", "--no-browser", "--port", "0", **quiet)
        assert f"is used by the council at {url}" in second.err
        # Who has another folder has no authority to ask for, and trusts nobody.
        stranger = {**quiet, "COUNCIL_DATA_DIR": str(council.home / "elsewhere")}
        untrusted = council.run("models", "list", "--url", url, **stranger)
        assert (untrusted.code, "export-ca" in untrusted.err) == (1, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(50) == 0


def test_a_certificate_that_names_this_machine_gives_the_page_its_address(
    council: Council, quiet: dict[str, Any], tmp_path: Path
) -> None:
    quiet["COUNCIL_KEY"] = "lc_0123456789abcdef"
    certificate = persons_certificate(tmp_path, "localhost")
    with council.start("up", "--host", "0.0.0.0", "--no-browser", **quiet, **certificate) as process:
        page = f"https://localhost:{quiet['COUNCIL_PORT']}"
        assert wait_for_line(process, "The council is at").split()[-1] == page
        assert wait_for_line(process, "Other machines").split()[-1] == page
        wait_for_line(process, "Ready")
        assert council.run("models", "list", "--url", page, **quiet).code == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(50) == 0


@pytest.mark.parametrize("words", [["master", "start", "--port", "0"], ["node", "start", "--port", "0"]])
def test_each_program_starts_alone_and_ends_in_order(
    council: Council, quiet: dict[str, Any], words: list[str]
) -> None:
    with council.start(*words, **quiet) as process:
        ready = json.loads(wait_for_line(process, '"url"'))
        assert ready["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
