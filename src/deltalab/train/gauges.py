"""What the machine does while a trial runs: processor, memory, GPU. Under MLflow's own names for them."""

import contextlib
import time
from collections.abc import Callable

import psutil
import torch

from deltalab.track.journal import SYSTEM

FIRST_SECONDS, EVERY_SECONDS = 1.0, 10.0
"""When a trial is first looked at, so that a short one is seen too, and how often afterwards."""
MEGABYTE = 1e6


class Gauges:
    """Looks at the machine now and then, where it is asked to often.

    Args:
        tell: where a reading goes.
    """

    def __init__(self, tell: Callable[[dict[str, float]], None]) -> None:
        self._tell, self._due = tell, time.monotonic() + FIRST_SECONDS
        self._process = psutil.Process()
        for source in (psutil, self._process):
            source.cpu_percent()  # whose next answer is about the time since this one

    def look(self) -> None:
        """Tell a reading when it is time for one."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY_SECONDS
        read = {}
        with contextlib.suppress(OSError, psutil.Error):  # a machine that does not tell stops no trial
            read = {**self._machine(), **_gpu()}
        if read:
            self._tell({SYSTEM + name: value for name, value in read.items()})

    def _machine(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "process_memory_usage_megabytes": self._process.memory_info().rss / MEGABYTE,
        }


def _gpu() -> dict[str, float]:
    """Of the GPU that this process computes on; how busy it is only where NVIDIA's nvidia-ml-py is installed."""
    if not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    found = {
        "gpu_memory_usage_megabytes": (total - free) / MEGABYTE,
        "gpu_memory_usage_percentage": 100 * (total - free) / total,
    }
    with contextlib.suppress(Exception):  # of many kinds, by what of NVIDIA's library is there
        found["gpu_utilization_percentage"] = float(torch.cuda.utilization())
    return found
