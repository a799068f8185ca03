"""Ctrl-C of a command whose loop sleeps."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# The signal comes to a thread that is not the loop's, so that it disturbs no sleep: as one does that comes in
# the moment in which the loop goes to sleep.
SLEEPER = """
import asyncio, signal, threading, time
from master.cli.interrupts import run

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

async def sleep():
    print("asleep", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("woken", flush=True)

run(sleep())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process there")
def test_ctrl_c_wakes_a_loop_that_the_signal_itself_does_not_disturb() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert out == "woken\n"
    assert err.endswith("KeyboardInterrupt\n")
