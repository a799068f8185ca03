"""Which processes serve an engine's address on this machine: a real socket, and real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from worker_node.engines.local_processes import LocalProcesses


@pytest.fixture
def port() -> Iterator[int]:
    """Where this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_who_listens_is_found_with_its_children_and_nobody_elsewhere(port: int) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(LocalProcesses(f"http://127.0.0.1:{port}").ids())
        assert child.stdin is not None
        child.stdin.close()
    assert LocalProcesses(f"http://192.0.2.1:{port}").ids() == []


def test_where_nobody_listens_nobody_is_found() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert LocalProcesses(f"http://127.0.0.1:{bound.getsockname()[1]}").ids() == []


@pytest.mark.skipif(sys.platform == "darwin", reason="the machine's whole table is for root alone")
def test_the_table_of_the_machine_is_read_once_however_many_processes_there_are_and_ask(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, all_ask, look = [], threading.Barrier(4), psutil.net_connections

    def counted(kind: str) -> Any:
        looks.append(kind)
        return look(kind)

    def each(_process: psutil.Process, kind: str) -> Any:
        raise AssertionError(f"{kind}: reads the whole table again for each process")

    monkeypatch.setattr(psutil, "net_connections", counted)
    monkeypatch.setattr(psutil.Process, "net_connections", each)
    processes = LocalProcesses(f"http://127.0.0.1:{port}")

    def ask(_number: int) -> list[int]:
        all_ask.wait(20)
        return processes.ids()

    with ThreadPoolExecutor(4) as threads:
        assert all(os.getpid() in found for found in threads.map(ask, range(4)))
    assert looks == ["tcp"]
