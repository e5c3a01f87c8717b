"""What a call takes on a GPU: time by CUDA events, memory by torch's allocator."""

import statistics
from collections.abc import Callable

import torch

WARM = 3
ROUNDS = (10, 100)
"""Least and most calls that are timed."""
TIMED = 0.4
"""Seconds that the timed calls of a figure take together, within ROUNDS."""
COPIED = 2**30
"""Bytes of the copy that measures the bandwidth."""


def milliseconds(work: Callable[[int], object]) -> float:
    """Median of CUDA events around calls; ``work`` is told whose turn it is."""
    for turn in range(WARM):
        work(turn)
    rough = statistics.median(_events(work, WARM))
    calls = min(max(round(1e3 * TIMED / max(rough, 1e-3)), ROUNDS[0]), ROUNDS[1])
    return statistics.median(_events(work, calls))


def _events(work: Callable[[int], object], calls: int) -> list[float]:
    """Milliseconds of each of so many calls."""
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    torch.cuda.synchronize()
    for turn, (start, stop) in enumerate(pairs):
        start.record()
        work(turn)
        stop.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) for start, stop in pairs]


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
