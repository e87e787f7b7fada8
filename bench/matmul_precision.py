"""What the two settings of `matmul_precision` cost in accuracy, on CUDA: errors against float64 autograd.

On a GPU, or with the same kernels emulated on the CPU, which takes a quarter of a minute:

    cmake --build --preset release --target pe_torch_emulated
    python bench/matmul_precision.py --operators build/release/tests/cpp/libpe_runtime_torch_emulated.so
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import cuda_timing
import torch
import torch.nn.functional as F
from contextual import numbers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pe_runtime import ops
from pe_runtime.functional import contextual_loss

PRECISIONS = ("highest", "high")
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, None)


def pair(channels: int, noise: float | None) -> tuple[Tensor, Tensor]:
    """Smooth features of 24 x 24 positions; the noise is relative to their standard deviation."""

    def smooth(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, channels, 6, 6, generator=generator, dtype=torch.float64)
        return F.interpolate(coarse, size=(24, 24), mode="bicubic")

    source = smooth(0)
    if noise is None:
        return source.float(), smooth(1).float()
    generator = torch.Generator().manual_seed(2)
    unit = torch.randn(source.shape, generator=generator, dtype=torch.float64)
    return source.float(), (source + noise * source.std() * unit).float()


def loss_and_gradient(source: Tensor, target: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    source = source.detach().requires_grad_()
    loss = contextual_loss(source, target, **options)
    return loss.detach().cpu().double(), torch.autograd.grad(loss, source)[0].cpu().double()


@click.command(epilog="Example: python bench/matmul_precision.py --channels 13,64,128")
@click.option("--channels", default="64", callback=numbers, show_default=True)
@click.option(
    "--operators",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The operators with emulated kernels, instead of a GPU.",
)
def main(channels: list[int], operators: Path | None) -> None:
    """Relative errors of the loss / of the gradient (norm of the difference)."""
    device = "cpu" if operators else cuda_timing.DEVICE
    if operators:
        # As the package loads its own; the kernels for CUDA keep no row sums.
        ops._LIBRARY, ops.ROW_SUMS = operators.resolve(), ()
    else:
        cuda_timing.require_gpu()
    title = "relative error of the loss / of the gradient"
    table = Table("C", "noise", "loss (float64)", *PRECISIONS, title=title)
    for count in channels:
        for noise in NOISES:
            source, target = pair(count, noise)
            loss, gradient = loss_and_gradient(source.double(), target.double(), kernels="reference")
            shown = []
            for precision in PRECISIONS:
                got, got_gradient = loss_and_gradient(
                    *(source.to(device), target.to(device)), kernels="native", matmul_precision=precision
                )
                off = (got_gradient - gradient).norm() / gradient.norm()
                shown.append(f"{abs(got / loss - 1):.0e} / {off:.0e}")
            label = "unrelated" if noise is None else f"{noise:g}"
            table.add_row(str(count), label, f"{loss:.3g}", *shown)
    console = Console(width=100)
    console.print(operators.name if operators else cuda_timing.gpu_name())
    console.print(table)


if __name__ == "__main__":
    main()
