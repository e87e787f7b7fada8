"""Medians, peaks and the ceilings of a GPU, for the benchmarks that need one."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from pe_runtime.functional import feature_distance

Inputs = TypeVar("Inputs")

DEVICE = "cuda"
# A run that takes long is not disturbed by as much, and is measured fewer times.
LONG = 2.0
_WARM_UP = 3


def require_gpu() -> None:
    """End the program with status 2 and one line where there is nothing to measure."""
    reason = gpu_problem()
    if reason:
        print(f"nothing measured: {reason}", file=sys.stderr)
        raise SystemExit(2)


def gpu_problem() -> str | None:
    """Why kernels cannot be measured on a GPU here; None if they can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU on this machine"
    try:
        feature_distance(*[torch.ones(1, 1, 1, 1, device=DEVICE)] * 2, kernels="native")
    except RuntimeError as error:
        return str(error)
    return None


def gpu_name() -> str:
    properties = torch.cuda.get_device_properties(0)
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, "
        f"{properties.total_memory / 2**30:.0f} GiB, torch {torch.__version__}"
    )


def median_time(run: Callable[[Inputs], Any], inputs: Sequence[Inputs], runs: int) -> float:
    """Median seconds of a call by the device's clock, after a warm-up; inputs take turns."""
    run(inputs[0])
    once = _elapsed(run, inputs[:1], 1)[0]
    if once * _WARM_UP < LONG:
        _elapsed(run, inputs, _WARM_UP)
    return statistics.median(_elapsed(run, inputs, max(3, min(runs, int(LONG / once)))))


def _elapsed(run: Callable[[Inputs], Any], inputs: Sequence[Inputs], runs: int) -> list[float]:
    """Seconds of each of so many calls, which are queued without waiting for each other."""
    events = []
    for arguments in itertools.islice(itertools.cycle(inputs), runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(arguments)
        end.record()
        events.append((begin, end))
    torch.cuda.synchronize()
    return [max(begin.elapsed_time(end), 1e-4) / 1e3 for begin, end in events]


def peak(run: Callable[[], Any]) -> int:
    """Bytes that a call allocates at most beyond what there was; call it once before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth(size: int = 2**31) -> float:
    """Bytes per second that a copy reads and writes, in maps far larger than the caches."""
    pairs = [tuple(torch.rand(size // 4, device=DEVICE) for _ in range(2)) for _ in range(2)]
    return 2 * size / median_time(lambda pair: pair[0].copy_(pair[1]), pairs, 20)


def product_rate(kind: str, size: int = 8192) -> float:
    """Operations per second of a large matrix product of random numbers.

    Args:
        kind: "float16" or "bfloat16" (summed in float32), "tf32", "float32" or "float64".
        size: of the square matrices.
    """
    dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
    size = size // 4 if kind in ("float32", "float64") else size
    operands = [
        tuple(torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2)) for _ in range(2)
    ]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    try:
        return 2 * size**3 / median_time(lambda pair: pair[0] @ pair[1], operands, 20)
    finally:
        torch.set_float32_matmul_precision(before)


def exponential_rate(count: int = 2**24, depth: int = 64) -> float:
    """Base-2 exponentials per second, of values that stay in registers."""

    def chain(values: Tensor) -> Tensor:
        for _ in range(depth):
            values = torch.exp2(-values)
        return values

    compiled = torch.compile(chain, dynamic=False)
    return count * depth / median_time(compiled, [torch.rand(count, device=DEVICE)], 10)
