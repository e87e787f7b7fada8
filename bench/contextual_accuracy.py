"""How exact the contextual loss is: relative errors of loss and gradient against float64 autograd.

Beside the kernels: the definition in float32 as one would write it, and in half precision the formula of
the public PyTorch port. Smooth synthetic feature maps with noise on the target, and, where photographs and
weights lie beside the checkout, features of SqueezeNet under JPEG, noise, and of an unrelated image.

    python bench/contextual_accuracy.py --json accuracy.json
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from contextual_peers import eager, pytorch_port
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

import pe_runtime as pe
from pe_runtime.atomic import atomic_path
from pe_runtime.functional import contextual_loss

SHARED = Path(__file__).resolve().parents[2] / "shared"
Pair = tuple[Tensor, Tensor]


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


def photographs() -> Iterator[tuple[str, Pair]]:
    """Features of fire3, all channels and 13 of them, of a 256 x 256 photograph and changed copies."""
    paths = sorted((SHARED / "images" / "kodak").glob("*.png"))
    weights = SHARED / "weights" / "squeezenet1_1.safetensors"
    if len(paths) < 6 or not weights.exists():
        return
    backbone = pe.Backbone("squeezenet1_1", taps=["fire3"], weights=weights)
    photo, unrelated = (Image.open(paths[n]).convert("RGB").crop((0, 0, 256, 256)) for n in (4, 5))

    def jpeg(quality: int) -> Image.Image:
        file = io.BytesIO()
        photo.save(file, "jpeg", quality=quality)
        return Image.open(file).convert("RGB")

    def features(image: Image.Image, noise: float = 0.0) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        pixels = pixels + noise * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return backbone(pixels.clamp(0, 1))["fire3"]

    target = features(photo)
    changed = {
        "JPEG 95": features(jpeg(95)),
        "JPEG 30": features(jpeg(30)),
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
    if json_path is not None:
        with atomic_path(json_path) as temporary:
            Path(temporary).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
