"""How fast the contextual loss is, and how much memory it takes, beside what one would use otherwise.

Peers, all in float32 on the same features in the same run: the definition in eager PyTorch as one writes
it, with a softmax instead, and that under torch.compile; the formulas of the two public implementations
(Mechrez et al.'s TensorFlow code and the PyTorch port) without their sampling; and the bare matrix product
that all of them start with. "of sgemm" is the rate of that product, 2 B N^2 C operations in the time of
forward, relative to the best that a matrix product reaches on this machine at any size tried. "both" is
forward with backward to the source.

    python bench/contextual.py --positions 4096 --channels 13,128 --json contextual.json
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import click
import torch
from contextual_peers import PEERS, pair
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from timing import measure, median_time

from pe_runtime.atomic import atomic_path


def best_sgemm() -> float:
    rates = []
    for size in (768, 1024, 1536, 2048, 3072, 4096):
        a, b = torch.randn(size, size), torch.randn(size, size)
        a @ b
        rates.append(2 * size**3 / median_time(lambda a=a, b=b: a @ b, 7))
    return max(rates)


def measure_peer(
    name: str, size: int, channels: int, batch: int, backward: bool, runs: int
) -> dict[str, Any]:
    source, target = pair(size, channels, batch)
    function = PEERS[name].function
    source.requires_grad_(backward)

    def run() -> None:
        result = function(source, target)
        if backward:
            source.grad = None
            (result if result.ndim == 0 else result.sum()).backward()

    seconds, memory = measure(run, runs)  # warmed up: compiled, caches filled
    return {"seconds": seconds, "peak_bytes": memory}


def numbers(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    try:
        return [int(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"expected numbers with commas between them, got {value!r}") from error


@click.command(epilog="Example: python bench/contextual.py --positions 1024,4096 --channels 13,128")
@click.option(
    "--positions", default="1024,4096,16384", callback=numbers, show_default=True, help="N, squares."
)
@click.option("--channels", default="13,32,64,128,512", callback=numbers, show_default=True)
@click.option("--batch", default="1,4", callback=numbers, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(PEERS)), help="Measure these alone.")
@click.option("--threads", default=2, show_default=True)
@click.option("--runs", default=5, show_default=True, help="Of which the median is taken.")
@click.option(
    "--memory", default=10.0, show_default=True, help="GB that a peer may need; others are left out."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(
    positions: list[int],
    channels: list[int],
    batch: list[int],
    only: tuple[str, ...],
    threads: int,
    runs: int,
    memory: float,
    json_path: Path | None,
) -> None:
    """Time and peak memory of the contextual loss and its peers."""
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 1000
    console = Console()
    sgemm = best_sgemm()
    console.print(
        f"{platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}"
    )
    console.print(f"best sgemm: {sgemm / 1e9:.0f} GFLOP/s")
    names = [name for name in PEERS if not only or name in only]
    rows: list[dict[str, Any]] = []
    cases = [(n, c, b, back) for n in positions for c in channels for b in batch for back in (False, True)]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(cases) * len(names))
        for n, c, b, back in cases:
            for name in names:
                row = {"N": n, "C": c, "B": b, "backward": back, "name": name}
                matrices = PEERS[name][1 + back]
                fits = matrices * 4 * b * n * n <= memory * 1e9
                rows.append({**row, **measure_peer(name, n, c, b, back, runs)} if fits else row)
                progress.advance(task)
    # As wide as it needs, also where the output is a pipe.
    Console(width=160).print(_table(rows, sgemm))
    if json_path is not None:
        figures = {"threads": threads, "torch": torch.__version__, "best_sgemm": sgemm, "rows": rows}
        with atomic_path(json_path) as temporary:
            Path(temporary).write_text(json.dumps(figures, indent=1))


def _table(rows: list[dict[str, Any]], sgemm: float) -> Table:
    """One line for each case: ours in ms, the peers in multiples of it, and the peaks in MB."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    table = Table("N", "C", "B", "pass", *names, "of sgemm", title="time, ms or times ours (peak, MB)")
    cases: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        key = (row["N"], row["C"], row["B"], row["backward"])
        cases.setdefault(key, {})[row["name"]] = row
    for (n, c, b, back), case in cases.items():
        own = case.get("pe_runtime", {}).get("seconds")
        shown = [_cell(case[name], own) for name in names]
        rate = f"{2 * b * n**2 * c / own / sgemm:.0%}" if own and not back else ""
        table.add_row(str(n), str(c), str(b), "both" if back else "forward", *shown, rate)
    return table


def _cell(row: dict[str, Any], own: float | None) -> str:
    if "seconds" not in row:
        return "does not fit"
    ours = row["name"] == "pe_runtime" or not own
    time = f"{row['seconds'] * 1e3:.2f}" if ours else f"{row['seconds'] / own:.1f}x"
    return f"{time} ({row['peak_bytes'] / 1e6:.0f})"


if __name__ == "__main__":
    main()
