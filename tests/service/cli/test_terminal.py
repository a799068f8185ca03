"""`council ask` on a real pseudo-terminal, and on an output that goes away."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.service.cli.command import Council
from tests.service.cli.fake_council import Script
from tests.service.cli.fake_master import FakeMaster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


class Terminal:
    """The command on a pseudo-terminal of 100 columns by 30 lines; all that it shows is kept."""

    def __init__(self, council: Council, *arguments: str) -> None:
        import fcntl
        import struct
        import termios

        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "master.cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=council.environment(TERM="xterm-256color", COLUMNS="", LINES=""),
            cwd=council.home,
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, text: str) -> None:
        """Read until `text` was shown; fails when the command ends before."""
        while text not in self.shown:
            assert self._read(), f"{text!r} was never shown: {self.shown[-2000:]}"

    def read_all(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            continue
        os.close(self._ours)
        return self.process.wait(20)

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux tells the end of a terminal as an error
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)


def test_a_terminal_gets_panels_and_then_the_report(council: Council, master: FakeMaster) -> None:
    master.script = Script(pause_s=0.02)
    terminal = Terminal(council, "ask", "Why is the sky blue?", "--url", master.url)
    terminal.read_until("Stage 1 of 3")
    terminal.read_until("Stage 3 of 3")
    assert terminal.read_all() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)
    assert "╭─ agent_1 llama3.2:1b ─" in shown
    report = shown[shown.rindex("Ranking") :]
    for part in ("Ballots", "Result: full", "Rayleigh scattering", "Tokens and latency"):
        assert part in report


def test_without_live_panels_a_terminal_gets_plain_lines(council: Council, master: FakeMaster) -> None:
    terminal = Terminal(council, "ask", "Why is the sky blue?", "--no-live", "--url", master.url)
    assert terminal.read_all() == 0
    assert "agent_2 | Second line of agent_2." in terminal.shown
    assert "╭" not in terminal.shown


def test_a_hostile_answer_leaves_no_code_on_a_terminal(council: Council, master: FakeMaster) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2Jtext [link](https://example.org/\x1b[31m) \x9b31m"
    master.script = Script(answer=hostile, opinion=hostile)
    terminal = Terminal(council, "ask", "Why is the sky blue?", "--url", master.url)
    assert terminal.read_all() == 0
    assert "\x1b]" not in terminal.shown
    assert "\x1b[2J" not in terminal.shown
    assert "\x07" not in terminal.shown
    assert "\x9b" not in terminal.shown


def test_ctrl_c_on_a_terminal_cancels_and_gives_the_cursor_back(council: Council, master: FakeMaster) -> None:
    master.script = Script(hold_before="review")
    terminal = Terminal(council, "ask", "Why is the sky blue?", "--url", master.url)
    terminal.read_until("Stage 1 of 3")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.read_all() == 130
    assert "cancelling the session" in terminal.shown
    assert "The council was cancelled." in terminal.shown
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    assert master.cancels == 1


def test_an_output_that_is_closed_ends_the_command(council: Council, master: FakeMaster) -> None:
    master.script = Script(pause_s=0.02)
    with council.start("ask", "Why is the sky blue?", "--url", master.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"Stage 1" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 1
        told = process.stderr.read().decode()
    assert "the answer cannot be written" in told
    assert "connection lost" not in told
    assert "Traceback" not in told
