"""`pe-runtime demo`: from photographs to a verdict, in one folder."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pe_runtime.demo.verdicts import Row

_GATE_THRESHOLD = 0.07


@click.command(name="demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo_output"),
    show_default=True,
    help="Folder to write everything into.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with your own photographs, 256 pixels or larger.  [default: those of scikit-image]",
)
def command(output: Path, images: Path | None) -> None:
    """Score channels, export metrics, and judge distorted photographs with ONNX Runtime.

    Scores the channels of the built-in gabor backbone by perceptual efficacy, exports four metrics to
    ONNX, distorts photographs at several strengths, and has ONNX Runtime judge them. Exit code 1 if any
    metric puts any strengths in the wrong order.

    \b
    Example:
      pe-runtime demo -o demo_output
    """
    from pe_runtime.demo import photographs

    started = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print("[bold]1. Photographs[/], and versions of them distorted at four strengths each")
    photos = photographs.load_photographs(images)
    photographs.write_pairs(photos, output / "images")
    rows = _judge(output, _make_metrics(output, console), console)
    _draw(output, rows, list(photos))
    _gate(output, console)
    wrong = [row for row in rows if not row.ordered]
    console.print(_closing(output, len(rows) - len(wrong), len(rows), time.monotonic() - started))
    sys.exit(1 if wrong else 0)


def _make_metrics(output: Path, console: Console) -> dict[str, str]:
    """Score, select, export. Returns metric name -> what it is."""
    from pe_runtime.cli.tables import score_table
    from pe_runtime.demo import metric_files
    from pe_runtime.profiles import Profile

    console.print("[bold]2. Perceptual efficacy[/] of the channels of the gabor backbone")
    paths = metric_files.score_gabor(output / "profiles")
    profiles = {tap: Profile.load(path) for tap, path in paths.items()}
    console.print(score_table(profiles, paths))
    console.print("[bold]3. Metrics[/], exported to ONNX")
    makers = metric_files.metric_makers(profiles)
    for name, (meaning, make) in makers.items():
        path = metric_files.write_metric(make, output / "metrics" / f"{name}.onnx")
        console.print(f"   {path}: {meaning}")
    return {name: meaning for name, (meaning, _) in makers.items()}


def _judge(output: Path, metrics: dict[str, str], console: Console) -> list[Row]:
    """Score every distorted photograph with every metric, and print the tables."""
    from pe_runtime.demo import verdicts

    console.print("\n[bold]4. What ONNX Runtime makes of the photographs[/] (none: undistorted)\n")
    rows: list[Row] = []
    pairs = sum(len(list(folder.iterdir())) for folder in (output / "images").glob("*-*"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True) as progress:
        judging = progress.add_task("judging", total=len(metrics) * pairs)
        for name in metrics:
            file = output / "metrics" / f"{name}.onnx"
            rows += verdicts.judge_all(name, file, output / "images", lambda: progress.advance(judging))
    for name, meaning in metrics.items():
        verdicts.print_rows([row for row in rows if row.metric == name], f"{name}: {meaning}", console)
    return rows


def _draw(output: Path, rows: list[Row], photographs: list[str]) -> None:
    from pe_runtime.demo import verdicts

    verdicts.write_rows(rows, output)
    verdicts.plot_rows(rows, output / "scores.png")
    metric = output / "metrics" / "distance.onnx"
    for name in photographs:
        verdicts.draw_maps(metric, output / "images", name, output / "maps" / f"{name}.png")


def _gate(output: Path, console: Console) -> None:
    """Run the gate as a user would, in a process of its own."""
    arguments = [
        *("gate", str(output / "images" / "reference"), str(output / "images" / "jpeg-3")),
        *("--metric", str(output / "metrics" / "distance.onnx"), "--threshold", f"{_GATE_THRESHOLD:g}"),
    ]
    console.print(f"[bold]5. The gate[/]: pe-runtime {shlex.join(arguments)}")
    done = subprocess.run(
        [sys.executable, "-m", "pe_runtime", *arguments], capture_output=True, text=True, check=False
    )
    console.print(done.stdout + done.stderr, markup=False, highlight=False, end="")
    console.print(f"   exit code {done.returncode} (0: all pass, 1: some fail, 2: could not judge)\n")


def _closing(output: Path, right: int, total: int, seconds: float) -> str:
    return f"""\
[bold]{right} of {total}[/] rows order the strengths correctly ({seconds:.0f} s). Look at
  {output}/scores.png   scores against strength, for every metric
  {output}/maps/        photographs, distorted, and where the metric sees it
  {output}/profiles/    tuning curves and PE scores, as plots and profile files
  {output}/metrics/     the ONNX files, for `pe-runtime gate` on images of your own
  {output}/scores.csv, {output}/scores.json"""
