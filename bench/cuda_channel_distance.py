"""What share of a GPU's copy bandwidth the channel distances reach, and how much faster than eager they are.

Eq. 1 ("squared") and the LPIPS form ("unit") of maps like those of training: B = 16, both memory formats,
float32 and float16. "bytes" is the least that must move: forward reads both maps and writes the map of
distances, backward (to the first map) reads both and writes the gradient. "of copy" is the rate at which
they moved over the rate of a copy, which the same run measures. Maps are larger than the caches and take
turns.

    python bench/cuda_channel_distance.py --json cuda_channel_distance.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import cuda_timing
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pe_runtime.atomic import atomic_path
from pe_runtime.functional import feature_distance, lpips_distance

FORMS: dict[str, Callable[..., Tensor]] = {"squared": feature_distance, "unit": lpips_distance}
MEMORY = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
DTYPES = {"float32": torch.float32, "float16": torch.float16}
BATCH = 16
# Channels and side of the map: halved from tap to tap, but not so far that two maps fit the cache.
MAPS = ((64, 256), (128, 128), (256, 128), (512, 64))
TARGET = 0.8


def maps(
    channels: int, side: int, dtype: torch.dtype, memory: torch.memory_format
) -> list[tuple[Tensor, ...]]:
    """Two pairs of maps, which take turns."""
    shape = (BATCH, channels, side, side)
    return [
        tuple(
            torch.rand(shape, device=cuda_timing.DEVICE).to(dtype).contiguous(memory_format=memory)
            for _ in range(2)
        )
        for _ in range(2)
    ]


def measure(
    form: str, channels: int, side: int, dtype: str, memory: str, runs: int
) -> Iterator[dict[str, Any]]:
    """Forward and backward of one case, ours and eager."""
    pairs = maps(channels, side, DTYPES[dtype], MEMORY[memory])
    one = pairs[0][0].numel() * pairs[0][0].element_size()
    least = {"forward": 2 * one + 4 * BATCH * side * side, "backward": 3 * one}
    times: dict[str, dict[str, float]] = {"forward": {}, "backward": {}}
    for kernels in ("native", "reference"):

        def forward(pair: tuple[Tensor, ...], kernels: str = kernels) -> Tensor:
            return FORMS[form](*pair, kernels=kernels)

        with torch.no_grad():
            times["forward"][kernels] = cuda_timing.median_time(forward, pairs, runs)
        leaves = [(first.requires_grad_(), second) for first, second in pairs]
        graphs = [(forward(pair), pair[0]) for pair in leaves]
        upstream = torch.ones(BATCH, device=cuda_timing.DEVICE)

        def backward(graph: tuple[Tensor, Tensor], upstream: Tensor = upstream) -> Any:
            return torch.autograd.grad(graph[0], graph[1], upstream, retain_graph=True)

        times["backward"][kernels] = cuda_timing.median_time(backward, graphs, runs)
    for direction, seconds in times.items():
        yield {
            "form": form,
            "C": channels,
            "side": side,
            "dtype": dtype,
            "memory": memory,
            "pass": direction,
            "bytes": least[direction],
            "ours": seconds["native"],
            "eager": seconds["reference"],
        }


@click.command(epilog="Example: python bench/cuda_channel_distance.py --runs 100")
@click.option("--runs", default=30, show_default=True, help="Of which the median is taken.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(runs: int, json_path: Path | None) -> None:
    """Bandwidth of the channel distances on a GPU. Without one: exit status 2."""
    cuda_timing.require_gpu()
    console = Console(width=140)
    copy = cuda_timing.copy_bandwidth()
    console.print(f"{cuda_timing.gpu_name()}; copy {copy / 1e12:.2f} TB/s")
    rows = [
        row
        for form in FORMS
        for channels, side in MAPS
        for dtype in DTYPES
        for memory in MEMORY
        for row in measure(form, channels, side, dtype, memory, runs)
    ]
    table = Table(
        "form", "C", "map", "type", "memory", "pass", "ours, us", "of copy", "target", "eager, times ours"
    )
    for row in rows:
        reached = row["bytes"] / row["ours"] / copy
        table.add_row(
            *(row["form"], str(row["C"]), f"{row['side']} x {row['side']}", row["dtype"], row["memory"]),
            *(row["pass"], f"{row['ours'] * 1e6:.0f}", f"{reached:.0%}"),
            *("met" if reached >= TARGET else "MISSED", f"{row['eager'] / row['ours']:.1f}"),
        )
    console.print(table)
    met = sum(row["bytes"] / row["ours"] / copy >= TARGET for row in rows)
    console.print(f"{met} of {len(rows)} cases reach {TARGET:.0%} of the copy's bandwidth")
    if json_path is not None:
        figures = {"gpu": cuda_timing.gpu_name(), "copy": copy, "batch": BATCH, "rows": rows}
        with atomic_path(json_path) as temporary:
            Path(temporary).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
