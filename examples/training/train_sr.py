"""Trains a small super-resolution network (x2) with Eq. 9 of Tariq et al. (ECCV 2020), and times its loss.

    python examples/training/train_sr.py                          # on the CPU: about a minute
    python examples/training/train_sr.py --device cuda --steps 300
    python examples/training/train_sr.py --kernels native --images my_photographs

The loss is 0.99 L2 + 0.01 contextual loss, the latter of a tap of the built-in backbone with the channels
that have the highest perceptual efficacy, weighted by it. Without --kernels the same training runs twice,
with the definition of the contextual loss in eager PyTorch and with the kernels, and a table compares time
and memory per step. Weights and a picture (bicubic, the trained network, the original) go to a folder.
Needs pe_runtime and, for its photographs, scikit-image (pip install 'pe_runtime[demo]').
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

import pe_runtime as pe
from pe_runtime.atomic import atomic_path

ALPHA = 0.99
# With the usual 0.5, positions of images as close as these find their counterparts: there is little to learn.
BANDWIDTH = 5.0
TAP = "scale2"
PERCENT = 25
# The definition as PyTorch runs it, and the operators.
COMPARED = ("reference", "native")
# What device -> (patch, batch, steps) is worth waiting for.
DEFAULTS = {"cpu": (80, 4, 100), "cuda": (128, 16, 300)}
# The loss of the first step may differ between both by this share: nothing has been trained yet.
AGREEMENT = 1e-4


class Upscaler(nn.Module):
    """ESPCN (Shi et al., CVPR 2016) with a bicubic shortcut: it learns what bicubic interpolation misses."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        # So that training starts from bicubic interpolation.
        nn.init.zeros_(self.layers[-2].weight)
        nn.init.zeros_(self.layers[-2].bias)

    def forward(self, low: Tensor) -> Tensor:
        """Images of twice the size."""
        return enlarge(low) + self.layers(low)


@dataclass
class Run:
    """One training: the network and what was measured."""

    kernels: str
    network: Upscaler
    step_seconds: list[float] = field(default_factory=list)
    loss_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    first_contextual: float | None = None
    # Of the photograph that is kept back, by bicubic interpolation and by the trained network.
    bicubic: tuple[float, float] = (0.0, 0.0)
    trained: tuple[float, float] = (0.0, 0.0)


def enlarge(low: Tensor) -> Tensor:
    """Bicubic interpolation to twice the size."""
    return F.interpolate(low, scale_factor=2, mode="bicubic", align_corners=False)


def halve(high: Tensor) -> Tensor:
    """Half the size, smoothed against aliasing."""
    return F.interpolate(high, scale_factor=0.5, mode="bicubic", align_corners=False, antialias=True).clamp(
        0, 1
    )


def load_photographs(folder: Path | None) -> list[Tensor]:
    """(3, H, W) in [0, 1], with even sizes; the last is kept for the picture."""
    if folder is None:
        from skimage import data

        arrays = [getattr(data, name)() for name in ("astronaut", "coffee", "rocket", "chelsea")]
    else:
        suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
        arrays = [np.array(Image.open(path).convert("RGB")) for path in paths]
    photographs = [torch.from_numpy(array).permute(2, 0, 1) / 255 for array in arrays]
    return [photo[:, : photo.shape[1] // 2 * 2, : photo.shape[2] // 2 * 2] for photo in photographs]


def draw_patches(photographs: list[Tensor], size: int, batch: int, generator: torch.Generator) -> Tensor:
    """Random patches, (batch, 3, size, size)."""
    patches = []
    for index in torch.randint(len(photographs), (batch,), generator=generator):
        photo = photographs[index]
        y, x = (int(torch.randint(side - size + 1, (), generator=generator)) for side in photo.shape[1:])
        patches.append(photo[:, y : y + size, x : x + size])
    return torch.stack(patches)


@functools.cache
def best_channels() -> pe.ChannelSet:
    """The channels of the highest PE, weighted by it."""
    profile = pe.score_channels(pe.Backbone("gabor", taps=[TAP]))[TAP]
    return profile.top(PERCENT, weights="pe")


def make_loss(kernels: str, device: torch.device) -> pe.TotalLoss:
    """Eq. 9."""
    backbone = pe.Backbone("gabor", taps={TAP: best_channels()})
    return pe.TotalLoss(pe.ContextualLoss(backbone, BANDWIDTH, kernels=kernels), alpha=ALPHA).to(device)


def wait(device: torch.device) -> float:
    """The time when the device is done with what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def halved_middle(photo: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The middle of a photograph, half as large, and as it is."""
    side = min(192, *photo.shape[1:])
    y, x = ((length - side) // 2 for length in photo.shape[1:])
    high = photo[None, :, y : y + side, x : x + side].to(device)
    return halve(high), high


def train(
    kernels: str,
    photographs: list[Tensor],
    shown: Tensor,
    options: argparse.Namespace,
    advance: Callable[[], None],
) -> Run:
    """Train a network from the seed; look at how it does on the photograph that is kept back."""
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    run = Run(kernels, Upscaler().to(device))
    loss = make_loss(kernels, device)
    optimizer = torch.optim.Adam(run.network.parameters(), lr=1e-3)
    for number in range(options.steps):
        high = draw_patches(photographs, options.patch, options.batch, generator).to(device)
        low = halve(high)

        def step(low: Tensor = low, high: Tensor = high) -> float:
            started = wait(device)
            optimizer.zero_grad()
            prediction = run.network(low)
            # The gradient stops here on its way back, so that the loss is timed alone.
            leaf = prediction.detach().requires_grad_()
            before = wait(device)
            total = loss(leaf, high)
            total.backward()
            after = wait(device)
            prediction.backward(leaf.grad)
            optimizer.step()
            run.step_seconds.append(wait(device) - started)
            run.loss_seconds.append(after - before)
            return ((total.detach() - ALPHA * F.mse_loss(leaf.detach(), high)) / (1 - ALPHA)).item()

        # The second step: in the first, what is kept from step to step is allocated.
        if number == min(1, options.steps - 1):
            run.peak_bytes, contextual = peak_bytes(step, device)
        else:
            contextual = step()
        if run.first_contextual is None:
            run.first_contextual = contextual
        advance()
    low, high = halved_middle(shown, device)
    with torch.no_grad():
        run.bicubic, run.trained = (
            (F.l1_loss(images, high).item(), loss.loss(images, high).item())
            for images in (enlarge(low), run.network(low))
        )
    return run


def peak_bytes(step: Callable[[], Any], device: torch.device) -> tuple[int | None, Any]:
    """What a step allocates at most beyond what there was, where that can be known, and its result."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = step()
        return torch.cuda.max_memory_allocated(device) - before, result
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        return None, step()

    def resident(key: str) -> int:
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    # Memory that was freed but is still held would serve the step unseen.
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # the peak starts again
    before = resident("VmRSS")
    result = step()
    return max(0, resident("VmHWM") - before), result


def table_of(runs: list[Run]) -> Table:
    """Time and memory per step, and what the training came to."""
    table = Table("contextual loss by", "ms per step", "of which loss", "peak MB", "first", "held out", "L1")
    table.title = "Steps: medians. Contextual loss in the first step and on the held-out photograph; its L1"
    table.add_row("(bicubic)", "", "", "", "", *shown_values(runs[0].bicubic))
    for run in runs:
        # The first steps warm caches up.
        steps, losses = (times[min(2, len(times) - 1) :] for times in (run.step_seconds, run.loss_seconds))
        table.add_row(
            {"reference": "eager definition", "native": "kernels"}.get(run.kernels, run.kernels),
            *(f"{statistics.median(times) * 1e3:.1f}" for times in (steps, losses)),
            "unknown" if run.peak_bytes is None else f"{run.peak_bytes / 1e6:.0f}",
            f"{run.first_contextual:.6f}",
            *shown_values(run.trained),
        )
    return table


def shown_values(values: tuple[float, float]) -> tuple[str, str]:
    """Contextual loss and L1 for a table."""
    l1, contextual = values
    return f"{contextual:.5f}", f"{l1:.5f}"


def save(run: Run, photo: Tensor, folder: Path, device: torch.device) -> None:
    """The weights, and the middle of a photograph: bicubic, the network's, original."""
    with atomic_path(folder / f"weights-{run.kernels}.safetensors") as temporary:
        save_file({name: value.cpu() for name, value in run.network.state_dict().items()}, temporary)
    low, high = halved_middle(photo, device)
    with torch.no_grad():
        shown = torch.cat([enlarge(low), run.network(low), high], dim=3)[0].clamp(0, 1)
    pixels = (shown.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    # Each pixel as four: differences of single pixels are what is to be seen.
    image = Image.fromarray(pixels).resize(
        (2 * pixels.shape[1], 2 * pixels.shape[0]), Image.Resampling.NEAREST
    )
    with atomic_path(folder / f"before-after-{run.kernels}.png") as temporary:
        image.save(temporary, "PNG")


def parse() -> argparse.Namespace:
    """The command line, with the defaults of the device."""
    parser = argparse.ArgumentParser(
        description="Train a small x2 super-resolution network with Eq. 9 and time its loss.",
        epilog="Example: python examples/training/train_sr.py --device cuda --steps 300",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:NUMBER")
    parser.add_argument("--steps", type=int, help="default: 100 on the CPU, 300 on CUDA")
    parser.add_argument("--patch", type=int, help="pixels of a patch's side, even; default: 80, on CUDA 128")
    parser.add_argument("--batch", type=int, help="patches per step; default: 4, on CUDA 16")
    parser.add_argument("--kernels", choices=("auto", "native", "reference"), help="train once, with these")
    parser.add_argument("--compare", action="store_true", help="train twice and compare (without --kernels)")
    parser.add_argument("--images", type=Path, help="folder of photographs; default: scikit-image's own")
    parser.add_argument("--output", type=Path, default=Path("train_sr_output"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.kernels and options.compare:
        parser.error("--compare: expected no --kernels beside it")
    try:
        kind = torch.device(options.device).type
    except RuntimeError:
        kind = "unknown"
    if kind not in DEFAULTS:
        parser.error(f"--device: expected cpu, cuda or cuda:NUMBER, got {options.device}")
    if kind == "cuda" and not torch.cuda.is_available():
        parser.error("--device: torch finds no CUDA GPU on this machine")
    for name, value in zip(("patch", "batch", "steps"), DEFAULTS[kind], strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    if options.patch % 2 or options.patch < 16:
        parser.error(f"--patch: expected an even number from 16, got {options.patch}")
    if options.images and not options.images.is_dir():
        parser.error(f"--images: expected a folder, got {options.images}")
    return options


def main() -> int:
    """Run the command line: 0, or 1 where the definition and the kernels do not agree."""
    options = parse()
    *photographs, shown = load_photographs(options.images) or [None]
    photographs = [photo for photo in photographs if min(photo.shape[1:]) >= options.patch]
    if not photographs:
        print(f"--images: expected two photographs of {options.patch} pixels or more", file=sys.stderr)
        return 2
    console, hidden = Console(width=None if sys.stdout.isatty() else 140), not sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    runs = []
    with Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True) as progress:
        for kernels in [options.kernels] if options.kernels else COMPARED:
            task = progress.add_task(f"training, {kernels}", total=options.steps)
            runs.append(train(kernels, photographs, shown, options, lambda task=task: progress.advance(task)))
            save(runs[-1], shown, options.output, torch.device(options.device))
    console.print(table_of(runs))
    console.print(f"Weights and pictures (bicubic, network, original) are in {options.output}")
    first = [run.first_contextual for run in runs]
    if abs(first[0] - first[-1]) > AGREEMENT * abs(first[0]):
        print(f"the first contextual losses differ: {first}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
