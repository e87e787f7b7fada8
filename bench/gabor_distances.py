"""How large distances of the gabor backbone are on photographs, and how long a pair takes.

The least, median and largest distance (Eq. 1, all taps and channels) over the photographs for each
distortion, and the median time of one 512 x 512 pair in eager PyTorch and in ONNX Runtime.

    python bench/gabor_distances.py --images FOLDER
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.progress import track
from rich.table import Table

import pe_runtime as pe
from pe_runtime.atomic import atomic_path
from pe_runtime.demo.distortions import blur, jpeg, noise

KODAK = Path(__file__).resolve().parents[2] / "shared" / "images" / "kodak"


def pixels(photo: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255


def on_pixels(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Image.Image], torch.Tensor]:
    return lambda photo: change(pixels(photo)).clamp(0, 1)


DISTORTIONS: dict[str, Callable[[Image.Image], torch.Tensor]] = {
    **{f"JPEG, quality {q}": lambda photo, q=q: pixels(jpeg(photo, q)) for q in (90, 75, 40, 20, 10)},
    **{f"Gaussian blur, sigma {s}": lambda photo, s=s: pixels(blur(photo, s)) for s in (1, 2.5)},
    **{f"white noise, sigma {s} of 255": lambda photo, s=s: pixels(noise(photo, s)) for s in (5, 20)},
    "contrast x 0.7": on_pixels(lambda x: 0.5 + 0.7 * (x - 0.5)),
    "gamma 1.3": on_pixels(lambda x: x**1.3),
    "saturation x 0.5": lambda photo: pixels(ImageEnhance.Color(photo).enhance(0.5)),
    "red + 10 %, blue - 10 %": on_pixels(lambda x: x * torch.tensor([1.1, 1.0, 0.9])[:, None, None]),
    **{f"brightness + {d}": on_pixels(lambda x, d=d: x + d) for d in (0.02, 0.05, 0.1)},
}


@click.command()
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Of PNGs.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(images: Path | None, threads: int, json_path: Path | None) -> None:
    """Print distances per distortion, and times."""
    console = Console()
    torch.set_num_threads(threads)
    metric = pe.FeatureDistance()
    figures: dict[str, object] = {"milliseconds": times(metric, threads)}
    folder = images or (KODAK if KODAK.is_dir() else None)
    if folder is None:
        console.print("distances skipped: no folder of photographs; give one with --images")
    else:
        figures["distances"] = distances(metric, sorted(folder.glob("*.png")), console)
    console.print(
        f"512 x 512 pair, {threads} threads, torch {torch.__version__}: {figures['milliseconds']} ms"
    )
    if json_path is not None:
        with atomic_path(json_path) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n")


def distances(metric: pe.FeatureDistance, paths: list[Path], console: Console) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in DISTORTIONS}
    for path in track(paths, "photographs", disable=not sys.stderr.isatty()):
        photo = Image.open(path).convert("RGB")
        for name, distort in DISTORTIONS.items():
            with torch.inference_mode():
                found[name].append(metric(pixels(photo), distort(photo)).item())
    table = Table("distortion", "median", "least", "most", title=f"{len(paths)} photographs")
    for name, values in found.items():
        row = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{value:.2g}" for value in row))
    console.print(table)
    return found


def times(metric: pe.FeatureDistance, threads: int) -> dict[str, int]:
    """Median milliseconds of 9 turns, the two runtimes taking turns."""
    import onnxruntime

    pair = [torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        file = pe.export(metric, Path(folder) / "metric.onnx", verify=False)
        session = onnxruntime.InferenceSession(str(file), options)
    inputs = {name: i.numpy() for name, i in zip(("reference", "distorted"), pair, strict=True)}
    runs: dict[str, Callable[[], object]] = {
        "eager": lambda: metric(*pair),
        "ONNX Runtime": lambda: session.run(None, inputs),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for _ in range(9):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                taken[name].append(time.perf_counter() - start)
    return {name: round(1000 * statistics.median(values)) for name, values in taken.items()}


if __name__ == "__main__":
    main()
