"""Medians and peaks, for all benchmarks."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

# A run that takes long is not disturbed by as much, and is measured once.
LONG = 4.0


def elapsed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median_time(run: Callable[[], object], runs: int) -> float:
    """Median seconds of so many calls, of fewer where they take long."""
    times: list[float] = []
    while len(times) < runs and sum(times) < LONG:
        times.append(elapsed(run))
    return statistics.median(times)


def peak(run: Callable[[], object]) -> int:
    """Bytes of resident memory that a call needs at most, beyond what there was."""
    gc.collect()
    # What earlier calls freed would serve this one unseen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: expected a line {name}")


def measure(run: Callable[[], object], runs: int, cold: bool = False) -> tuple[float, int]:
    """Median seconds and peak bytes of a call, warmed up by one.

    cold: the peak is that of the first call, for what keeps its memory from one to the next; else that of
    the second, for what compiles in the first.
    """
    times: list[float] = []
    peaks = [peak(lambda: times.append(elapsed(run))) for _ in range(2)]
    return (times[1] if min(times) > LONG else median_time(run, runs)), peaks[0 if cold else 1]
