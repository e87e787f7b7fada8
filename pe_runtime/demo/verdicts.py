"""From metric files to verdicts: the second half of the demonstration, which needs ONNX Runtime alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pe_runtime.atomic import atomic_path
from pe_runtime.demo.distortions import DISTORTIONS
from pe_runtime.gate import Judge


@dataclass(frozen=True)
class Row:
    """What one metric says of one photograph under one distortion, from mild to strong."""

    metric: str
    photograph: str
    distortion: str
    strengths: tuple[float, ...]
    identity: float
    scores: tuple[float, ...]

    @property
    def ordered(self) -> bool:
        """Whether every stronger level scores strictly worse, and the mildest worse than no distortion."""
        return all(low < high for low, high in zip((self.identity, *self.scores), self.scores, strict=False))


def judge_all(metric: str, file: Path, images: Path, advance: Callable[[], None]) -> list[Row]:
    """Score every distorted photograph with one metric file.

    Args:
        metric: its name.
        file: ONNX file.
        images: folder that `photographs.write_pairs` wrote.
        advance: called after each pair.

    Raises:
        ValueError: the metric could not score a pair.
    """
    judge = Judge(file, 0.0)
    rows = []
    for reference in sorted((images / "reference").iterdir()):
        identity = judge.score(reference, reference).score
        for distortion, (_, strengths) in DISTORTIONS.items():
            scores = []
            for level in range(1, len(strengths) + 1):
                candidate = images / f"{distortion}-{level}" / reference.name
                scores.append(judge.score(reference, candidate).score)
                advance()
            rows.append(Row(metric, reference.stem, distortion, strengths, identity, tuple(scores)))
    return rows


def print_rows(rows: list[Row], title: str, console: Console) -> None:
    """The score table of one metric."""
    levels = range(1, 1 + max(len(row.scores) for row in rows))
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("photograph", "distortion", "strengths"):
        table.add_column(name)
    for column in ("none", *(f"level {level}" for level in levels)):
        table.add_column(column, justify="right")
    table.add_column("ordered")
    for row in rows:
        strengths = ", ".join(f"{strength:g}" for strength in row.strengths)
        verdict = "[green]yes[/]" if row.ordered else "[red]NO[/]"
        scores = (f"{score:.3g}" for score in (row.identity, *row.scores))
        table.add_row(row.photograph, row.distortion, strengths, *scores, verdict)
    console.print(table)


def write_rows(rows: list[Row], folder: Path) -> None:
    """All scores as scores.csv (a line per score) and scores.json."""
    with atomic_path(folder / "scores.json") as temporary:
        listed = [{**asdict(row), "ordered": row.ordered} for row in rows]
        temporary.write_text(json.dumps(listed, indent=1) + "\n")
    with atomic_path(folder / "scores.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("metric", "photograph", "distortion", "strength", "score"))
        for row in rows:
            for strength, score in zip(row.strengths, row.scores, strict=True):
                writer.writerow((row.metric, row.photograph, row.distortion, strength, score))


def plot_rows(rows: list[Row], path: Path) -> None:
    """Scores against levels: a row of panels per metric, a column per distortion, a line per photograph."""
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(row.metric for row in rows))
    figure = Figure(figsize=(3 * len(DISTORTIONS), 2.4 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), len(DISTORTIONS), squeeze=False)
    for row in rows:
        column = list(DISTORTIONS).index(row.distortion)
        axes = panels[metrics.index(row.metric)][column]
        axes.plot(range(1, len(row.scores) + 1), row.scores, marker="o", markersize=3, label=row.photograph)
        axes.set_xticks(range(1, len(row.scores) + 1), [f"{strength:g}" for strength in row.strengths])
        axes.set_title(f"{row.metric}: {row.distortion}", fontsize=9)
    for axes in panels.flat:
        # Only now: a limit set between two lines would stop the axis from growing with the second.
        axes.set_ylim(bottom=0)
    panels[0][0].legend(fontsize=7)
    figure.supylabel("score (0: identical; larger: worse)")
    figure.supxlabel("strength, from mild to strong")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_maps(file: Path, images: Path, photograph: str, path: Path) -> None:
    """One photograph under each distortion at its strongest, with the difference map below."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    judge = Judge(file, 0.0, maps=True)
    reference = images / "reference" / f"{photograph}.png"
    figure = Figure(figsize=(2.6 * (len(DISTORTIONS) + 1), 5.4), layout="constrained")
    panels = figure.subplots(2, len(DISTORTIONS) + 1)
    strongest = {
        distortion: images / f"{distortion}-{len(strengths)}" / reference.name
        for distortion, (_, strengths) in DISTORTIONS.items()
    }
    maps = {}
    for distortion, candidate in strongest.items():
        drawn = judge.score(reference, candidate).map
        assert drawn is not None  # asked for
        maps[distortion] = drawn
    # The square root shows small differences beside large ones.
    scale = PowerNorm(0.5, vmin=0, vmax=float(np.percentile(np.stack(list(maps.values())), 99.5)))
    for axes in panels.flat:
        axes.axis("off")
    panels[0][0].imshow(Image.open(reference))
    panels[0][0].set_title("reference", fontsize=9)
    for column, (distortion, candidate) in enumerate(strongest.items(), start=1):
        panels[0][column].imshow(Image.open(candidate))
        panels[0][column].set_title(f"{distortion} {DISTORTIONS[distortion][1][-1]:g}", fontsize=9)
        drawn_map = panels[1][column].imshow(maps[distortion], norm=scale, cmap="viridis")
    figure.colorbar(drawn_map, ax=panels[1][0], location="left", label="difference", shrink=0.9)
    figure.suptitle(f"{photograph}: where {file.stem} sees differences (one scale for all)", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
