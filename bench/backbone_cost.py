"""What selecting channels saves: parameters and FLOPs with all channels of a tap, and with a share of them.

Channels are drawn at random (seed 0): which ones they are changes the cost only where a layer is a
concatenation. Weights are random too; nothing is downloaded.

    python bench/backbone_cost.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from pe_runtime.atomic import atomic_path
from pe_runtime.backbones import Backbone, list_taps
from pe_runtime.channels import ChannelSet, random_indices

CASES = (
    ("vgg16", "relu1_2"),
    ("vgg16", "relu2_2"),
    ("vgg16", "relu4_3"),
    ("vgg19", "relu3_4"),
    ("alexnet", "relu2"),
    ("squeezenet1_0", "fire4"),
    ("squeezenet1_1", "fire3"),
    ("squeezenet1_1", "fire9"),
    ("shufflenet_v2_x0_5", "stage2"),
    ("shufflenet_v2_x1_0", "stage3"),
    ("shufflenet_v2_x1_5", "stage2"),
    ("shufflenet_v2_x2_0", "stage4"),
    ("googlenet", "inception3a"),
    ("googlenet", "inception4a"),
)


@click.command()
@click.option("--percent", default=10, show_default=True, type=click.IntRange(1, 100), help="Channels kept.")
@click.option("--size", default=224, show_default=True, type=click.IntRange(64), help="Image side, pixels.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the numbers here.")
def main(percent: int, size: int, json_path: Path | None) -> None:
    """Print what truncating at a tap leaves, and what keeping some of its channels saves on top."""
    rows = [_measure(name, tap, percent, size) for name, tap in CASES]
    _print(rows, percent, size)
    if json_path is not None:
        with atomic_path(json_path) as path:
            path.write_text(json.dumps({"percent": percent, "size": size, "rows": rows}, indent=2) + "\n")


def _measure(name: str, tap: str, percent: int, size: int) -> dict[str, Any]:
    channels = {alias: t.channels for t in list_taps(name) for alias in (t.name, *t.aliases)}[tap]
    kept = max(1, channels * percent // 100)
    chosen = ChannelSet(random_indices(channels, kept, seed=0))
    cost = Backbone(name, {tap: chosen}, "random").cost(size, size)
    return {"backbone": name, "tap": tap, "channels": channels, "kept": kept, **vars(cost)}


def _print(rows: list[dict[str, Any]], percent: int, size: int) -> None:
    table = Table(
        title=f"{percent} % of the channels, {size} x {size} image", caption="up to the tap: all -> kept"
    )
    table.add_column("backbone", no_wrap=True)
    table.add_column("tap", no_wrap=True)
    for heading in ("channels", "parameters", "MFLOP", "saved"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["backbone"],
            row["tap"],
            f"{row['channels']} -> {row['kept']}",
            f"{row['parameters_full']:,} -> {row['parameters']:,}",
            f"{row['flops_full'] / 1e6:,.1f} -> {row['flops'] / 1e6:,.1f}",
            f"{1 - row['flops'] / row['flops_full']:.0%}",
        )
    # As wide as it needs, also where the output is a pipe, which rich takes to be 80 columns wide.
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
