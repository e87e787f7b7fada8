"""How fast the channel distances are, beside the definitions in eager PyTorch and one read of both inputs.

Eq. 1 ("squared") and the LPIPS form ("unit"), in both memory formats, of all channels and of every tenth.
"read" is the time that the sum of both maps takes, the least that any function of them can. Forward, and
forward with backward to the first map ("both").

    python bench/channel_distance.py --json channel_distance.json
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from pe_runtime.atomic import atomic_path
from pe_runtime.functional import feature_distance, lpips_distance

FORMS = {"squared": feature_distance, "unit": lpips_distance}


def median_time(run: Callable[[], object], runs: int) -> float:
    run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@click.command(epilog="Example: python bench/channel_distance.py --size 256 --channels 128")
@click.option("--size", default=256, show_default=True, help="Height and width of the maps.")
@click.option("--channels", default=128, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--runs", default=11, show_default=True, help="Of which the median is taken.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(size: int, channels: int, threads: int, runs: int, json_path: Path | None) -> None:
    """Time of the channel distances."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    planar = [torch.rand(1, channels, size, size, generator=generator) for _ in range(2)]
    table = Table("form", "memory", "channels", "pass", "ours, ms", "times a read", "eager, times ours")
    rows = []
    for form, function in FORMS.items():
        for memory in (torch.contiguous_format, torch.channels_last):
            first, second = (m.contiguous(memory_format=memory) for m in planar)
            read = median_time(lambda f=first, s=second: (f.sum(), s.sum()), runs)
            for selected in (None, list(range(0, channels, 10))):
                for backward in (False, True):

                    def run(
                        kernels: str, f=first, s=second, function=function, selected=selected, back=backward
                    ) -> None:
                        f = f.detach().requires_grad_(back)
                        distance = function(f, s, selected, kernels=kernels, reduction="sum")
                        if back:
                            distance.backward()

                    ours = median_time(lambda run=run: run("native"), runs)
                    eager = median_time(lambda run=run: run("reference"), max(3, runs // 3))
                    row = {
                        "form": form,
                        "memory": "NCHW" if memory is torch.contiguous_format else "channels-last",
                        "channels": channels if selected is None else len(selected),
                        "backward": backward,
                        "read": read,
                        "ours": ours,
                        "eager": eager,
                    }
                    rows.append(row)
                    table.add_row(
                        form,
                        row["memory"],
                        str(row["channels"]),
                        "both" if backward else "forward",
                        f"{ours * 1e3:.2f}",
                        f"{ours / read:.2f}",
                        f"{eager / ours:.1f}",
                    )
    Console().print(table)
    if json_path is not None:
        with atomic_path(json_path) as temporary:
            Path(temporary).write_text(json.dumps({"size": size, "threads": threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
