"""How exact the contextual loss is: relative errors of loss and gradient against float64 autograd.

Beside the kernels: the definition in float32 as one would write it, and in half precision the formula of
the public PyTorch port. Smooth synthetic feature maps with noise on the target, and, where photographs and
weights lie beside the checkout, features of SqueezeNet under JPEG, noise, and of an unrelated image.

A second table has images made of those photographs in which many features are equal or nearly so: flat
areas, bars, few levels, one colour, a screen. There the gradient is made of differences of features times as
much as 2e6 (bandwidth 0.05), and what should cancel must. Beside the kernels: the package's definition in
float32. What is aimed at is an error of 1e-4 of the norm, or at most twice the definition's.

    python bench/contextual_accuracy.py --json accuracy.json
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from contextual_peers import eager, pytorch_port
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import Tensor

import pe_runtime as pe
from pe_runtime.atomic import atomic_path
from pe_runtime.functional import contextual_loss

SHARED = Path(__file__).resolve().parents[2] / "shared"
Pair = tuple[Tensor, Tensor]
# Of the images with equal features.
SIZE = 128
BANDWIDTHS = (0.05, 0.5, 5.0, 20.0)
AIM = 1e-4


def synthetic() -> Iterator[tuple[str, Pair]]:
    """Smooth features of 48 x 48 positions; the noise is relative to their standard deviation."""
    for channels in (13, 128):
        for noise in (0.01, 0.03, 0.3, None):
            generator = torch.Generator().manual_seed(1)
            coarse = torch.randn(2, channels, 12, 12, generator=generator)
            source, other = F.interpolate(coarse, size=(48, 48), mode="bicubic").relu().split(1)
            if noise is not None:
                other = source + noise * source.std() * torch.randn(source.shape, generator=generator)
            name = "unrelated" if noise is None else f"noise {noise:.0%}"
            yield f"synthetic, C = {channels}, {name}", (source, other.relu())


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file).convert("RGB")


def photographs() -> Iterator[tuple[str, Pair]]:
    """Features of fire3, all channels and 13 of them, of a 256 x 256 photograph and changed copies."""
    paths = sorted((SHARED / "images" / "kodak").glob("*.png"))
    weights = SHARED / "weights" / "squeezenet1_1.safetensors"
    if len(paths) < 6 or not weights.exists():
        return
    backbone = pe.Backbone("squeezenet1_1", taps=["fire3"], weights=weights)
    photo, unrelated = (Image.open(paths[n]).convert("RGB").crop((0, 0, 256, 256)) for n in (4, 5))

    def features(image: Image.Image, noise: float = 0.0) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        pixels = pixels + noise * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return backbone(pixels.clamp(0, 1))["fire3"]

    target = features(photo)
    changed = {
        "JPEG 95": features(jpeg(photo, 95)),
        "JPEG 30": features(jpeg(photo, 30)),
        "noise 1 %": features(photo, 0.01),
        "unrelated": features(unrelated),
    }
    for name, source in changed.items():
        for channels in (13, 128):
            yield f"fire3, C = {channels}, {name}", (source[:, :channels], target[:, :channels])


def port_in(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda source, target: pytorch_port(source.to(dtype), target.to(dtype)).float()


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pe_runtime": lambda x, y: contextual_loss(x, y, kernels="native"),
    "definition in float32": eager,
    "PyTorch port in float16": port_in(torch.float16),
    "PyTorch port in bfloat16": port_in(torch.bfloat16),
}


def loss_and_gradient(method: Callable[[Tensor, Tensor], Tensor], pair: Pair) -> Pair:
    source = pair[0].detach().clone().requires_grad_()
    loss = method(source, pair[1])
    return loss.detach().double(), torch.autograd.grad(loss, source)[0].double()


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).integers(-1, 2, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def half_flat(image: Image.Image) -> Image.Image:
    flat = image.copy()
    flat.paste("grey", (SIZE // 2, 0, SIZE, SIZE))
    return flat


def bars(image: Image.Image) -> Image.Image:
    """Eight colour bars above, the photograph below."""
    barred = image.copy()
    for n, colour in enumerate(("white", "yellow", "cyan", "lime", "magenta", "red", "blue", "black")):
        barred.paste(colour, (n * SIZE // 8, 0, (n + 1) * SIZE // 8, SIZE * 2 // 3))
    return barred


def few_levels(image: Image.Image) -> Image.Image:
    return image.quantize(4).convert("RGB")


def screen(image: Image.Image) -> Image.Image:
    """A window with text and a thumbnail."""
    window = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(window)
    draw.rectangle((0, 0, SIZE, 11), fill="navy")
    for line in range(9):
        draw.text((3, 14 + 12 * line), f"{line}: text of a window", fill="black")
    window.paste(image.resize((SIZE // 3, SIZE // 3)), (SIZE * 5 // 8, SIZE // 3))
    return window


def images_with_equal_features(photo: Image.Image) -> dict[str, tuple[Image.Image, Image.Image]]:
    """Source and target."""
    grey, silver = (Image.new("RGB", photo.size, colour) for colour in ("grey", "silver"))
    rough = jpeg(photo, 50)
    return {
        "half flat, JPEG 50 beside": (half_flat(rough), half_flat(photo)),
        "half flat, noise of 1/255": (noisy(half_flat(photo)), half_flat(photo)),
        "bars, JPEG 50 below": (bars(rough), bars(photo)),
        "4 levels, JPEG 50": (few_levels(rough), few_levels(photo)),
        "constant source": (grey, photo),
        "constant target": (photo, grey),
        "two constants": (silver, grey),
        "screen, JPEG 50": (jpeg(screen(photo), 50), screen(photo)),
        "screen, other thumbnail": (screen(photo.rotate(180)), screen(photo)),
    }


def equal_features() -> Iterator[tuple[str, Pair]]:
    """Of fire3, and of gabor (not of constant images, where it is 0): about a thousand positions each."""
    path = SHARED / "images" / "kodak" / "kodim05.png"
    weights = SHARED / "weights" / "squeezenet1_1.safetensors"
    if not path.exists() or not weights.exists():
        return
    fire3 = pe.Backbone("squeezenet1_1", taps=["fire3"], weights=weights)
    gabor = pe.Backbone("gabor", taps=["scale2"])
    photo = Image.open(path).convert("RGB").crop((100, 100, 100 + SIZE, 100 + SIZE))
    for name, pair in images_with_equal_features(photo).items():
        for network, tap, size in ((fire3, "fire3", SIZE), (gabor, "scale2", SIZE // 2)):
            if network is gabor and "constant" in name:
                continue
            maps = []
            for image in pair:
                small = image.resize((size, size), Image.Resampling.NEAREST)
                pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
                with torch.no_grad():
                    maps.append(network(pixels)[tap])
            yield f"{name}, {'gabor' if network is gabor else tap}", (maps[0], maps[1])


def gradients(pair: Pair, kernels: str, **options: Any) -> list[Tensor]:
    leaves = [features.detach().clone().requires_grad_() for features in pair]
    loss = contextual_loss(leaves[0], leaves[1], kernels=kernels, **options)
    return [gradient.double() for gradient in torch.autograd.grad(loss, leaves)]


def equal_features_table(console: Console) -> list[dict[str, Any]]:
    """Prints the second table. Its rows: of each bandwidth, errors of kernels and definition."""
    table = Table(
        "features",
        "distance",
        *(f"source, h = {bandwidth}" for bandwidth in BANDWIDTHS),
        "target, worst",
        title="Relative error of the gradient: kernels / definition in float32",
    )
    rows: list[dict[str, Any]] = []
    for name, pair in equal_features():
        wide = (pair[0].double(), pair[1].double())
        for distance in ("cosine", "l2"):
            cases = []
            for bandwidth in BANDWIDTHS:
                options: dict[str, Any] = {"distance": distance, "bandwidth": bandwidth}
                exact = gradients(wide, "reference", **options)
                errors = [
                    [((got - e).norm() / e.norm()).item() for got, e in zip(of_kernels, exact, strict=True)]
                    for of_kernels in (gradients(pair, k, **options) for k in ("native", "reference"))
                ]
                row = {"features": name, **options, "native": errors[0], "definition": errors[1]}
                row["met"] = all(ours <= max(AIM, 2 * theirs) for ours, theirs in zip(*errors, strict=True))
                cases.append(row)
            rows += cases
            worst = max(cases, key=lambda row: row["native"][1])
            shown = [f"{row['native'][0]:.0e} / {row['definition'][0]:.0e}" for row in cases]
            shown.append(f"{worst['native'][1]:.0e} / {worst['definition'][1]:.0e}")
            table.add_row(name, distance, *shown)
    if not rows:
        console.print("skipped equal features: no photographs and weights beside the checkout")
        return rows
    console.print(table)
    missed = [row for row in rows if not row["met"]]
    console.print(f"{len(rows) - len(missed)} of {len(rows)} cases meet the aim (both gradients)")
    for row in missed:
        console.print(row)
    return rows


@click.command(epilog="Example: python bench/contextual_accuracy.py --json accuracy.json")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(json_path: Path | None) -> None:
    """Errors of the contextual loss and its gradient."""
    console = Console()
    table = Table(
        "features", "loss (float64)", *METHODS, title="Relative error of the loss / of the gradient"
    )
    rows = []
    for name, pair in [*synthetic(), *photographs()]:
        wide = (pair[0].double(), pair[1].double())
        loss, gradient = loss_and_gradient(lambda x, y: contextual_loss(x, y, kernels="reference"), wide)
        row = {"features": name, "loss": loss.item()}
        for method, function in METHODS.items():
            got, got_gradient = loss_and_gradient(function, pair)
            row[method] = [
                ((got - loss).abs() / loss).item(),
                ((got_gradient - gradient).norm() / gradient.norm()).item(),
            ]
        rows.append(row)
        shown = [f"{row[method][0]:.0e} / {row[method][1]:.0e}" for method in METHODS]
        table.add_row(name, f"{row['loss']:.3e}", *shown)
    console.print(table)
    if len(rows) == 8:
        console.print("skipped real features: no photographs and weights beside the checkout")
    rows += equal_features_table(console)
    if json_path is not None:
        with atomic_path(json_path) as temporary:
            Path(temporary).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
