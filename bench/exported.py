"""Latency and peak memory of an exported metric in each runtime, beside the lpips package.

Metrics on SqueezeNet 1.1 at fire3 (real weights where they lie beside the checkout, else random ones, which
take as long): Eq. 1 and the contextual loss, with all channels and with H-10. Beside them LPIPS ("squeeze")
of the lpips package in eager PyTorch, and that exported as it is by torch's exporter and run in the same
ONNX Runtime; its backbone has random weights, which take as long. --saving compares H-10 with all channels
of vgg16 at relu2_2 instead.

    python bench/exported.py --sizes 256,512 --threads 1,2
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import lpips
import onnxruntime
import torch
from contextual import numbers
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from timing import measure
from torch import Tensor

import pe_runtime as pe
from pe_runtime.atomic import atomic_path
from pe_runtime.channels import random_indices

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "python"))
import capi  # noqa: E402

WEIGHTS = ROOT.parent / "shared" / "weights" / "squeezenet1_1.safetensors"
Pair = tuple[Tensor, Tensor]
Scorer = Callable[[Any], object]


def backbone(name: str, tap: str, channels: int, share: float) -> pe.Backbone:
    weights = WEIGHTS if name == "squeezenet1_1" and WEIGHTS.exists() else "random"
    # Which channels they are does not change the time.
    chosen = pe.ChannelSet(random_indices(channels, max(1, int(channels * share)), seed=0))
    return pe.Backbone(name, {tap: chosen if share < 1 else None}, weights)


def metrics(saving: bool) -> dict[str, pe.Metric]:
    if saving:
        return {
            f"Eq. 1, vgg16 relu2_2, {label}": pe.FeatureDistance(backbone("vgg16", "relu2_2", 128, share))
            for label, share in (("all", 1.0), ("H-10", 0.1))
        }
    built: dict[str, pe.Metric] = {}
    for label, share in (("all", 1.0), ("H-10", 0.1)):
        built[f"Eq. 1, {label}"] = pe.FeatureDistance(backbone("squeezenet1_1", "fire3", 128, share))
        built[f"contextual, {label}"] = pe.ContextualLoss(backbone("squeezenet1_1", "fire3", 128, share))
    return built


def in_onnx_runtime(session: onnxruntime.InferenceSession) -> Scorer:
    names = [value.name for value in session.get_inputs()]
    return lambda pair: session.run(
        None, {name: images.numpy() for name, images in zip(names, pair, strict=True)}
    )


def runtimes(metric: pe.Metric, folder: Path, threads: int) -> dict[str, Scorer]:
    metric = metric.eval()
    fused = pe.export(metric, folder / "fused.onnx", fused=True, verify=False)
    standard = pe.export(metric, folder / "standard.onnx", verify=False)
    script = torch.jit.load(str(pe.export(metric, folder / "m.pt", fused=True, verify=False)))
    compiled = pe.export(metric, folder / "m.pt2", compiled=True, verify=False)
    package = torch._inductor.aoti_load_package(str(compiled))
    in_c = capi.open_fused(fused, threads)

    return {
        # A loss has its arguments in another order; that takes as long.
        "eager": lambda pair: metric(*pair),
        "TorchScript": lambda pair: script(*pair),
        "AOTInductor": lambda pair: package(*pair),
        "ONNX Runtime, standard": in_onnx_runtime(pe.open_session(standard, threads=threads)),
        "ONNX Runtime, fused": in_onnx_runtime(pe.open_session(fused, threads=threads, fused=True)),
        "C": lambda pair: in_c.score(*pair, with_map=False),
    }


def lpips_package(folder: Path, threads: int) -> dict[str, Scorer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
        free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
        example = torch.rand(2, 3, 64, 80), torch.rand(2, 3, 64, 80)
        program = torch.onnx.export(module, example, dynamo=True, verbose=False, dynamic_shapes=(free, free))
    assert program is not None
    program.save(folder / "lpips.onnx")
    session = pe.open_session(folder / "lpips.onnx", threads=threads)
    return {"lpips, eager": lambda pair: module(*pair), "lpips, ONNX Runtime": in_onnx_runtime(session)}


def prepared(runtime: str, pair: Pair) -> Any:
    """The pair as the callers of a runtime have it: those of the C library, rows of pixels."""
    if runtime != "C":
        return pair
    return [images[0].permute(1, 2, 0).contiguous().numpy() for images in pair]


def images(size: int) -> Pair:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, size // 8, size // 8, generator=generator)
    reference = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    noise = 0.05 * torch.randn(reference.shape, generator=generator)
    return reference, (reference + noise).clamp(0, 1)


@click.command(epilog="Example: python bench/exported.py --sizes 256 --threads 1")
@click.option("--sizes", default="256,512,1024", callback=numbers, show_default=True, help="Image sides.")
@click.option("--threads", default="1,2", callback=numbers, show_default=True)
@click.option("--runs", default=9, show_default=True, help="Of which the median is taken.")
@click.option("--saving", is_flag=True, help="H-10 and all channels of vgg16 at relu2_2.")
@click.option("--only", default="", metavar="TEXT", help="Metrics with this in their names.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(
    sizes: list[int], threads: list[int], runs: int, saving: bool, only: str, json_path: Path | None
) -> None:
    """Milliseconds (and peak MB) of one score."""
    rows: list[dict[str, Any]] = []
    console = Console()
    built = {name: metric for name, metric in metrics(saving).items() if only in name}
    with_lpips = not saving and only in "LPIPS"
    if not built and not with_lpips:
        known = ", ".join(map(repr, [*metrics(saving), *([] if saving else ["LPIPS"])]))
        raise click.BadParameter(f"expected a part of one of {known}, got {only!r}", param_hint="--only")
    with tempfile.TemporaryDirectory() as temporary, Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(threads) * (len(built) + with_lpips))
        for count in threads:
            torch.set_num_threads(count)
            scorers = {
                name: runtimes(metric, Path(tempfile.mkdtemp(dir=temporary)), count)
                for name, metric in built.items()
            }
            if with_lpips:
                scorers["LPIPS"] = lpips_package(Path(temporary), count)
            for name, by_runtime in scorers.items():
                for runtime, score in by_runtime.items():
                    for size in sizes:
                        pair = prepared(runtime, images(size))
                        with torch.inference_mode():
                            seconds, peak = measure(
                                lambda score=score, pair=pair: score(pair), runs, cold=True
                            )
                        row = {"threads": count, "metric": name, "runtime": runtime, "size": size}
                        rows.append({**row, "seconds": seconds, "peak_bytes": peak})
                progress.advance(task)
    Console(width=120).print(_table(rows, sizes))
    if json_path is not None:
        with atomic_path(json_path) as path:
            Path(path).write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


def _table(rows: list[dict[str, Any]], sizes: list[int]) -> Table:
    table = Table("threads", "metric", "runtime", *(f"{size} px" for size in sizes), title="ms (peak MB)")
    cases: dict[tuple[int, str, str], list[str]] = {}
    for row in rows:
        shown = f"{row['seconds'] * 1e3:.1f} ({row['peak_bytes'] / 1e6:.0f})"
        cases.setdefault((row["threads"], row["metric"], row["runtime"]), []).append(shown)
    last = None
    for (count, metric, runtime), cells in cases.items():
        if last not in (None, (count, metric)):
            table.add_section()
        last = (count, metric)
        table.add_row(str(count), metric, runtime, *cells)
    return table


if __name__ == "__main__":
    main()
