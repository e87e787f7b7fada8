"""`pe-runtime demo`: from photographs to a verdict, in one folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click


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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from pe_runtime.demo import metric_files, photographs, verdicts
    from pe_runtime.demo.distortions import DISTORTIONS

    started = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120)
    pictures = output / "images"
    photos = photographs.load_photographs(images)
    photographs.write_pairs(photos, pictures)
    console.print(f"1. {len(photos)} photographs and their distorted versions are in {pictures}")

    profiles = metric_files.score_gabor(output / "profiles")
    console.print(
        f"2. perceptual efficacy of {sum(map(len, profiles.values()))} channels of {len(profiles)} taps"
    )
    makers = metric_files.metric_makers(profiles)
    pairs = len(photos) * sum(len(strengths) for _, strengths in DISTORTIONS.values())
    rows: dict[str, list[verdicts.Row]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        exporting = progress.add_task("exporting", total=len(makers))
        judging = progress.add_task("judging", total=len(makers) * pairs)
        for name, (_, make) in makers.items():
            file = metric_files.write_metric(make, output / "metrics" / f"{name}.onnx")
            progress.advance(exporting)
            rows[name] = verdicts.judge_all(name, file, pictures, lambda: progress.advance(judging))
    console.print(f"3. {len(makers)} metrics, exported to ONNX and judged by ONNX Runtime:\n")
    for name, (meaning, _) in makers.items():
        verdicts.print_rows(rows[name], f"{name}: {meaning}", console)

    every = [row for metric_rows in rows.values() for row in metric_rows]
    verdicts.write_rows(every, output)
    verdicts.plot_rows(every, output / "scores.png")
    for name in photos:
        verdicts.draw_maps(
            output / "metrics" / "distance.onnx", pictures, name, output / "maps" / f"{name}.png"
        )
    wrong = [row for row in every if not row.ordered]
    console.print(_closing(output, len(every) - len(wrong), len(every), time.monotonic() - started))
    sys.exit(1 if wrong else 0)


def _closing(output: Path, right: int, total: int, seconds: float) -> str:
    return f"""\
[bold]{right} of {total}[/] rows order the strengths correctly ({seconds:.0f} s).

Look at
  {output}/scores.png        scores against strength, every metric
  {output}/maps/             photographs, distorted, and where the metric sees it
  {output}/profiles/         tuning curves and PE scores, as plots and profile files
  {output}/metrics/          the ONNX files; try one on your own images:
    pe-runtime gate {output}/images/reference {output}/images/jpeg-2 \\
        --metric {output}/metrics/distance.onnx --threshold {_THRESHOLD}
  {output}/scores.csv, scores.json
"""


_THRESHOLD = 1e-5
