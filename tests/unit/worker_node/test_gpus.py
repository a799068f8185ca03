"""GPUs are told where their driver answers, and their absence is no error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from worker_node import gpus


class NVMLError(Exception):
    """The name that the driver's library gives its errors."""


class FakeDriver:
    """Two GPUs in `pynvml`'s words; the second was lost, the first may not tell its load."""

    NVMLError = NVMLError

    def __init__(self, *, missing: bool = False, silent: bool = False, countless: bool = False) -> None:
        self.missing = missing
        self.silent = silent
        self.countless = countless
        self.inits = 0

    def nvmlInit(self) -> None:
        self.inits += 1
        if self.missing:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        if self.countless:
            raise NVMLError("Uninitialized")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 1:
            raise NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetName(self, _handle: int) -> bytes:
        return b"NVIDIA Something 4060"

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> Any:
        return SimpleNamespace(used=3, total=8, free=5)

    def nvmlDeviceGetUtilizationRates(self, _handle: int) -> Any:
        if self.silent:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=42, memory=1)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    gpus._library.cache_clear()
    yield
    gpus._library.cache_clear()


def test_a_gpu_is_told_with_load_and_memory_and_a_lost_one_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeDriver())
    assert gpus.gpus() == [
        {"index": 0, "name": "NVIDIA Something 4060", "load_percent": 42, "memory_used": 3, "memory_total": 8}
    ]


def test_a_gpu_that_does_not_tell_its_load_is_still_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeDriver(silent=True))
    assert [one["load_percent"] for one in gpus.gpus()] == [None]


def test_without_a_driver_there_are_none_and_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(missing=True)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert gpus.gpus() == gpus.gpus() == []
    assert driver.inits == 1


def test_a_driver_that_fails_later_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeDriver(countless=True))
    assert gpus.gpus() == []


def test_without_the_library_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.gpus() == []


def test_the_library_as_installed_answers_on_this_machine() -> None:
    assert all(one["name"] and one["memory_total"] > 0 for one in gpus.gpus())
