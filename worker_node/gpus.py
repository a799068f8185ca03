"""The NVIDIA GPUs of this machine, where their driver answers. Blocking: call in a thread."""

from __future__ import annotations

import functools
from typing import Any

from common.logs import get_logger

log = get_logger(__name__)


def gpus() -> list[dict[str, Any]]:
    """Name, load (percent) and memory (bytes) of each GPU; empty without a driver. Never raises."""
    nvml = _library()
    if nvml is None:
        return []
    found: list[dict[str, Any]] = []
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        log.warning("the GPUs cannot be counted", error=str(error))
        return []
    for index in range(count):
        try:
            found.append(_look_at(nvml, index))
        except nvml.NVMLError as error:  # one that was lost, or may not be looked at
            log.debug("a GPU cannot be read", index=index, error=str(error))
    return found


def _look_at(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        load = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
    except nvml.NVMLError:  # some laptops' GPUs do not tell
        load = None
    return {
        "index": index,
        "name": name.decode() if isinstance(name, bytes) else name,
        "load_percent": load,
        "memory_used": memory.used,
        "memory_total": memory.total,
    }


@functools.cache
def _library() -> Any | None:
    """The driver's library, opened once for the life of the process; `None` where there is no driver."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("no NVIDIA driver", error=str(error))
        return None
    return pynvml
