"""The contextual loss as others write it, for every benchmark that compares: one formula in one place.

All take feature maps (B, C, H, W) and give the mean loss of the batch, but for the bare product. They hold
matrices of all pairs of positions; `Peer` says how many at once, which decides whether one fits the memory
there is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_runtime.functional import contextual_loss

H = 0.5

Loss = Callable[[Tensor, Tensor], Tensor]


class Peer(NamedTuple):
    """A formula, and how many matrices of all pairs are alive at once: forward, and with backward."""

    function: Loss
    forward_matrices: int
    both_matrices: int


def units(source: Tensor, target: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mean = target.mean(over, keepdim=True)
    return F.normalize(source - mean, dim=1).flatten(2), F.normalize(target - mean, dim=1).flatten(2)


def eager(source: Tensor, target: Tensor) -> Tensor:
    x, y = units(source, target, (2, 3))
    d = (1 - x.transpose(1, 2) @ y).clamp_min(0)
    w = torch.exp((1 - d / (d.amin(2, keepdim=True) + 1e-5)) / H)
    cx = w / w.sum(2, keepdim=True)
    return -torch.log(cx.amax(1).mean(1)).mean()


def eager_softmax(source: Tensor, target: Tensor) -> Tensor:
    x, y = units(source, target, (2, 3))
    d = (1 - x.transpose(1, 2) @ y).clamp_min(0)
    scaled = -d / (H * (d.amin(2, keepdim=True) + 1e-5))
    return -torch.log(torch.softmax(scaled, dim=2).amax(1).mean(1)).mean()


def pytorch_port(source: Tensor, target: Tensor) -> Tensor:
    x, y = units(source, target, (0, 2, 3))
    d = 1 - torch.bmm(x.transpose(1, 2), y)
    d = d / (d.min(dim=2, keepdim=True)[0] + 1e-5)
    w = torch.exp((1 - d) / H)
    cx = w / torch.sum(w, dim=2, keepdim=True)
    return torch.mean(-torch.log(torch.mean(torch.max(cx, dim=1)[0], dim=1) + 1e-5))


def mechrez(source: Tensor, target: Tensor) -> Tensor:
    x, y = units(source, target, (0, 2, 3))
    raw = -(x.transpose(1, 2) @ y - 1) / 2
    relative = raw / (raw.amin(2, keepdim=True) + 1e-5)
    weights = torch.exp((1.0 - relative) / H)
    cs = weights / weights.sum(2, keepdim=True)
    return -torch.log(cs.amax(1).mean(1)).mean()


def product(source: Tensor, target: Tensor) -> Tensor:
    return source.flatten(2).transpose(1, 2) @ target.flatten(2)


def ours(source: Tensor, target: Tensor) -> Tensor:
    return contextual_loss(source, target, bandwidth=H, kernels="native")


@functools.cache
def _compiled() -> Loss:
    # When it is first called: torch's compiler takes seconds to import.
    return torch.compile(eager_softmax)


def compiled_softmax(source: Tensor, target: Tensor) -> Tensor:
    return _compiled()(source, target)


PEERS: dict[str, Peer] = {
    "pe_runtime": Peer(ours, 0, 0),
    "eager": Peer(eager, 4, 8),
    "eager, softmax": Peer(eager_softmax, 4, 6),
    "torch.compile": Peer(compiled_softmax, 2, 4),
    "PyTorch port": Peer(pytorch_port, 4, 8),
    "TF formula": Peer(mechrez, 4, 8),
    "matrix product": Peer(product, 1, 1),
}


def pair(size: int, channels: int, batch: int, seed: int = 0, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Features as after a ReLU, and the same with noise, on square maps of `size` positions."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (batch, channels, math.isqrt(size), math.isqrt(size))
    source = torch.rand(shape, generator=generator, device=device).sub_(0.5).relu_()
    noise = torch.randn(shape, generator=generator, device=device)
    return source, (source + 0.15 * noise).relu_()
