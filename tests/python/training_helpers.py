"""A small network that is trained with Eq. 9; run as a program, one process of several that train it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pe_runtime as pe

# What processes that train together may wait for each other.
PATIENCE = timedelta(seconds=60)


def upscaler(seed: int = 0) -> nn.Module:
    """A network that doubles the size of images, with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Upsample(scale_factor=2), nn.Conv2d(3, 16, 5, padding=2)),
            *(nn.Tanh(), nn.Conv2d(16, 3, 3, padding=1)),
        )


def images(batch: int = 4, height: int = 32, width: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth images, half as large, and as they are."""
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    high = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return F.avg_pool2d(high, 2), high


def total_loss(kernels: str = "native", backbone: pe.Backbone | None = None) -> pe.TotalLoss:
    """Eq. 9, on some channels of the built-in backbone if there is none given."""
    backbone = backbone or pe.Backbone("gabor", taps={"scale2": pe.ChannelSet(list(range(0, 24, 2)))})
    return pe.TotalLoss(pe.ContextualLoss(backbone, kernels=kernels), alpha=0.5)


def gradients(network: nn.Module) -> list[Tensor]:
    """Of all parameters, copied."""
    return [parameter.grad.clone() for parameter in network.parameters()]


@contextmanager
def process_group(backend: str, rank: int, world: int, store: Path) -> Iterator[None]:
    """Meet the other processes through a file: no port that could be taken."""
    torch.distributed.init_process_group(
        backend, init_method=f"file://{store}", rank=rank, world_size=world, timeout=PATIENCE
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def train(backend: str, rank: int, world: int, output: Path, dies: bool) -> None:
    """A step on this process's share of the batch, twice from the same start, then one more."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    loss = total_loss().to(device)
    network = nn.parallel.DistributedDataParallel(upscaler().to(device))
    low, high = (part.chunk(world)[rank].to(device) for part in images())
    attempts = []
    for _ in range(2):
        network.zero_grad()
        value = loss(network(low), high)
        if dies:
            os._exit(3)
        value.backward()
        attempts.append((value.detach(), *gradients(network)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    optimizer.step()
    results = {
        "same": all(map(torch.equal, *attempts)),
        "loss": attempts[0][0].cpu(),
        "gradients": [gradient.cpu() for gradient in attempts[0][1:]],
        "later": loss(network(low), high).detach().cpu(),
    }
    torch.save(results, output)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("backend")
    parser.add_argument("rank", type=int)
    parser.add_argument("world", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dies", type=int, help="rank of a process that ends before it shares its gradients")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    place = arguments.backend, arguments.rank, arguments.world
    with process_group(*place, arguments.folder / "store"):
        output = arguments.folder / f"{arguments.rank}.pt"
        train(*place, output, arguments.dies == arguments.rank)


if __name__ == "__main__":
    main()
