"""What a call takes: time by CUDA events, or on a CPU by the clock; memory on a GPU by torch's allocator."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch

WARM = 3
ROUNDS = (10, 100)
"""Least and most calls that are timed."""
QUEUED = 8
"""Calls that wait together for a GPU: with at most some dozens of kernels each, the driver's queue holds them."""
CYCLES = 2_000_000
"""Of a GPU in a millisecond, at most."""
TIMED = 0.4
"""Seconds that the timed calls of a figure take together, within ROUNDS."""
COPIED = 2**30
"""Bytes of the copy that measures the bandwidth."""


def milliseconds(work: Callable[[int], object], least: int = ROUNDS[0], on_gpu: bool = True) -> float:
    """Median over calls.

    Args:
        work: told whose turn it is.
        least: calls that are timed at least.
        on_gpu: by CUDA events around them.
    """
    timed = _events if on_gpu else _clocked
    for turn in range(WARM):
        work(turn)
    rough = statistics.median(timed(work, min(WARM, least)))
    calls = min(max(round(1e3 * TIMED / max(rough, 1e-3)), least), ROUNDS[1])
    return statistics.median(timed(work, calls))


def queued(work: Callable[[int], object]) -> tuple[float, float]:
    """Milliseconds that a call takes on the GPU, and that the host takes to start it; medians over calls.

    The GPU is kept waiting while a few calls are queued, so that it does not wait for the host in between. A call that
    waits for the GPU itself is timed as it is.

    Args:
        work: told whose turn it is.
    """
    for turn in range(WARM):
        work(turn)
    _, taken = _queue(work, QUEUED, 0.0)
    host = statistics.median(taken)
    found: tuple[list[float], list[float]] = [], []
    while len(found[0]) < ROUNDS[0] or (len(found[0]) < ROUNDS[1] and sum(found[0]) < 1e3 * TIMED):
        for figures, more in zip(found, _queue(work, QUEUED, host), strict=True):
            figures += more
    on_gpu, on_host = map(statistics.median, found)
    return on_gpu, on_host


def _events(work: Callable[[int], object], calls: int) -> list[float]:
    """Milliseconds of each of so many calls on a GPU that begins with the first one."""
    return _queue(work, calls, 0.0)[0]


def _queue(work: Callable[[int], object], calls: int, host: float) -> tuple[list[float], list[float]]:
    """Milliseconds of each of so many calls on a GPU that first waits for them, and on the host.

    Args:
        host: milliseconds that the host is thought to take for one; twice as long the GPU waits.
    """
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    torch.cuda.synchronize()
    torch.cuda._sleep(round(2 * calls * host * CYCLES))  # pyright: ignore[reportPrivateUsage]
    marks = [time.perf_counter()]
    for turn, (start, stop) in enumerate(pairs):
        start.record()
        work(turn)
        stop.record()
        marks.append(time.perf_counter())
    torch.cuda.synchronize()
    taken = [1e3 * (stop - start) for start, stop in pairwise(marks)]
    return [start.elapsed_time(stop) for start, stop in pairs], taken


def _clocked(work: Callable[[int], object], calls: int) -> list[float]:
    """Milliseconds of each of so many calls on a CPU."""
    marks = [time.perf_counter()]
    for turn in range(calls):
        work(turn)
        marks.append(time.perf_counter())
    return [1e3 * (stop - start) for start, stop in pairwise(marks)]


def peak_bytes(work: Callable[[int], object]) -> int:
    """Bytes allocated at most in one call, above what is allocated before it; its results are in them."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work(0)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth() -> float:
    """Bytes read and written per millisecond by a copy far larger than the caches."""
    size = min(COPIED, torch.cuda.get_device_properties(0).total_memory // 16)
    source, target = (torch.zeros(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * size / milliseconds(lambda _: target.copy_(source))
