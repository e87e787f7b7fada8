"""Backbones as exported files have them: all that is constant is merged into the weights."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pe_runtime.backbones import Backbone
from pe_runtime.backbones.gabor import GaborNetwork
from pe_runtime.backbones.network import ChainNetwork


def folded(backbone: Backbone, top: float, half: bool) -> nn.Module:
    """The network of a backbone with its normalisation, and its batch norms, in its convolutions.

    Args:
        backbone: not changed.
        top: the value of white: images are in [0, top].
        half: keep the weights of convolutions in float16; they are computed with in float32.

    Returns:
        A module that takes images (B, 3, H, W) and gives a dict of tap to features.

    Raises:
        TypeError: a backbone of another kind.
    """
    network = copy.deepcopy(backbone.network).to(device="cpu", dtype=torch.float32)
    if isinstance(network, GaborNetwork):
        # The first thing that it does is linear, without an offset.
        network.opponent /= top
        return network
    if not isinstance(network, ChainNetwork):
        raise TypeError(f"metric: expected a backbone of pe_runtime, got {type(network).__name__}")
    _fold_batch_norms(network.steps)
    chain = FoldedChain(network, top)
    if half:
        _halve(chain)
    return chain


class FoldedChain(nn.Module):
    """A `ChainNetwork` whose first convolution divides by the standard deviation.

    It also subtracts the mean if it does not pad: images are padded with the mean, not with black.
    """

    mean: Tensor | None

    def __init__(self, network: ChainNetwork, top: float) -> None:
        super().__init__()
        mean, std = network.mean.double() * top, network.std.double() * top
        first = next(module for module in network.steps.modules() if isinstance(module, nn.Conv2d))
        weight = first.weight.double() / std
        first.weight = _constant(weight)
        padded = any(first.padding)
        if not padded:
            offset = -(weight * mean).sum(dim=(1, 2, 3))
            first.bias = _constant(offset if first.bias is None else first.bias.double() + offset)
        self.register_buffer("mean", mean.float() if padded else None)
        self.steps = network.steps
        self.heads = network.heads
        self._tap_of = dict(zip(network.heads, network.taps, strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of each tap, in network order."""
        features = images if self.mean is None else images - self.mean
        outputs = {}
        for name, step in self.steps.items():
            features = step(features)
            if name in self._tap_of:
                outputs[self._tap_of[name]] = self.heads[name](features)
        return outputs


class HalfConv2d(nn.Module):
    """A convolution with its weights stored in float16, computed in the images' type."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.detach().half())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        weight = self.weight.to(features.dtype)
        return F.conv2d(features, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def _fold_batch_norms(module: nn.Module) -> None:
    """Merge each batch norm into the convolution before it, in place."""
    for child in module.children():
        _fold_batch_norms(child)
    if isinstance(module, nn.Sequential):
        names = list(module._modules)
        pairs: Iterable[tuple[str, str]] = itertools.pairwise(names)
    else:
        # torchvision's BasicConv2d.
        pairs = [("conv", "bn")]
    for first, second in pairs:
        conv, norm = getattr(module, first, None), getattr(module, second, None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, first, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
            setattr(module, second, nn.Identity())


def _halve(module: nn.Module) -> None:
    """Replace convolutions, in place, by ones that store float16, unless a weight is too large for that."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and bool(child.weight.half().isfinite().all()):
            setattr(module, name, HalfConv2d(child))
        else:
            _halve(child)


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(torch.float32), requires_grad=False)
