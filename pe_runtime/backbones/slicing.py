"""Selection: rewrites a chain so that only the channels that are read are computed.

One backward pass over the chain. At each boundary between modules it knows which channels are read
downstream, and by what factor each is to be multiplied (`Live`). A rule per module type turns that into a
smaller module and into what is read of the module's input, until a convolution without groups reads
everything. Factors are >= 0, so they pass through ReLU and max pooling and end in the weights of a
convolution or batch norm: features come out selected and weighted at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.shufflenetv2 import InvertedResidual
from torchvision.models.squeezenet import Fire

from pe_runtime.channels import ChannelSet


@dataclass(frozen=True)
class Live:
    """The channels of a boundary that are read: in the order they are read, with a factor >= 0 each."""

    channels: tuple[int, ...]
    factors: tuple[float, ...]

    @classmethod
    def plain(cls, channels: Iterable[int]) -> Live:
        """Channels with a factor of 1."""
        numbers = tuple(channels)
        return cls(numbers, (1.0,) * len(numbers))

    @classmethod
    def of(cls, chosen: ChannelSet | None, width: int) -> Live:
        """What a channel set reads of a tap of `width` channels (None: everything)."""
        if chosen is None:
            return cls.plain(range(width))
        return cls(chosen.indices, chosen.weights or (1.0,) * len(chosen))

    def at(self, positions: Iterable[int]) -> Live:
        """The entries at some positions."""
        chosen = tuple(positions)
        return Live(tuple(self.channels[p] for p in chosen), tuple(self.factors[p] for p in chosen))

    def shifted(self, offset: int) -> Live:
        """The same with `offset` added to the channel numbers."""
        return Live(tuple(channel + offset for channel in self.channels), self.factors)

    def __add__(self, other: Live) -> Live:
        return Live(self.channels + other.channels, self.factors + other.factors)

    def __len__(self) -> int:
        return len(self.channels)


def slice_chain(
    modules: Sequence[nn.Module], widths: Sequence[int], taps: Mapping[int, ChannelSet | None]
) -> tuple[list[nn.Module], dict[int, nn.Module]]:
    """Rewrite a chain for the channels that its taps want.

    Args:
        modules: each reads the output of the one before; the first reads images.
        widths: output channels of each module.
        taps: position in the chain to the channels wanted there (None: all). The last module has one.

    Returns:
        The modules, in the same number, and per tapped position what turns the output there into the
        tap's channels: an `nn.Identity` where it is those already, else a `Select`.
    """
    sliced: list[nn.Module] = list(modules)
    heads: dict[int, nn.Module] = {}
    needed = Live((), ())
    for position in reversed(range(len(modules))):
        if position in taps:
            wanted = Live.of(taps[position], widths[position])
            if position == len(modules) - 1:
                heads[position], needed = nn.Identity(), wanted
            else:
                shared = Live.plain(sorted({*wanted.channels, *needed.channels}))
                heads[position] = _select(shared, wanted)
                sliced[position + 1] = _sequence(_select(shared, needed), sliced[position + 1])
                needed = shared
        if needed == Live.plain(range(widths[position])):
            needed = Live.plain(range(widths[position - 1] if position else 3))
        else:
            sliced[position], needed = slice_module(modules[position], needed)
    return sliced, heads


class Select(nn.Module):
    """Gathers channels, then multiplies each by its factor where they are not all 1.

    The factors are float64 until the network that holds it is moved to a dtype.
    """

    index: Tensor
    factors: Tensor

    def __init__(self, positions: Sequence[int], factors: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(positions, dtype=torch.long), persistent=False)
        exact = torch.tensor(factors, dtype=torch.float64)[:, None, None]
        self.register_buffer("factors", exact, persistent=False)
        self.scales = any(factor != 1 for factor in factors)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, len(positions), H, W)."""
        chosen = features.index_select(1, self.index)
        return chosen * self.factors if self.scales else chosen


class Concat(nn.Module):
    """Runs branches on the same input and concatenates their channels."""

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, sum of the branches' channels, H', W')."""
        return torch.cat([branch(features) for branch in self.branches], dim=1)


class PassThrough(nn.Module):
    """Hands the first channels on unchanged, and concatenates what a branch makes of the others."""

    def __init__(self, passed: int, branch: nn.Module) -> None:
        super().__init__()
        self.passed = passed
        self.branch = branch

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, passed + the branch's channels, H, W)."""
        return torch.cat([features[:, : self.passed], self.branch(features[:, self.passed :])], dim=1)


@singledispatch
def slice_module(module: nn.Module, live: Live) -> tuple[nn.Module, Live]:
    """The module that computes only `live` outputs, in that order and multiplied, and what it reads.

    Args:
        module: in eval mode, with its weights.
        live: outputs wanted; at least one.

    Raises:
        TypeError: there is no rule for this type of module.
    """
    raise TypeError(f"module: expected a layer of a known network, got {type(module).__name__}")


@slice_module.register
def _(module: nn.Conv2d, live: Live) -> tuple[nn.Module, Live]:
    depthwise = module.groups == module.in_channels == module.out_channels
    if module.groups != 1 and not depthwise:
        raise TypeError("module: expected a convolution with one group or one group per channel")
    rows = list(live.channels)
    groups = len(live) if depthwise else 1
    sliced = nn.Conv2d(
        len(live) if depthwise else module.in_channels,
        len(live),
        kernel_size=module.kernel_size,  # type: ignore[arg-type]
        stride=module.stride,  # type: ignore[arg-type]
        padding=module.padding,  # type: ignore[arg-type]
        dilation=module.dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=module.bias is not None,
        device="meta",
    )
    sliced.weight = _scaled(module.weight[rows], live)
    if module.bias is not None:
        sliced.bias = _scaled(module.bias[rows], live)
    return sliced, Live.plain(rows if depthwise else range(module.in_channels))


@slice_module.register
def _(module: nn.BatchNorm2d, live: Live) -> tuple[nn.Module, Live]:
    rows = list(live.channels)
    sliced = nn.BatchNorm2d(len(live), eps=module.eps, device="meta").eval()
    sliced.weight = _scaled(module.weight[rows], live)
    sliced.bias = _scaled(module.bias[rows], live)
    assert module.running_mean is not None
    assert module.running_var is not None
    sliced.running_mean = module.running_mean[rows].clone()
    sliced.running_var = module.running_var[rows].clone()
    sliced.num_batches_tracked = None
    return sliced, Live.plain(rows)


@slice_module.register(nn.ReLU)
@slice_module.register(nn.MaxPool2d)
def _(module: nn.Module, live: Live) -> tuple[nn.Module, Live]:
    return module, live


@slice_module.register
def _(module: nn.Sequential, live: Live) -> tuple[nn.Module, Live]:
    parts: list[nn.Module] = []
    for child in reversed(module):
        part, live = slice_module(child, live)
        parts.append(part)
    return _sequence(*reversed(parts)), live


@slice_module.register(BasicConv2d)
def _(module: Any, live: Live) -> tuple[nn.Module, Live]:
    return slice_module(nn.Sequential(module.conv, module.bn, nn.ReLU()), live)


@slice_module.register(Fire)
def _(module: Any, live: Live) -> tuple[nn.Module, Live]:
    branches = [
        nn.Sequential(module.expand1x1, module.expand1x1_activation),
        nn.Sequential(module.expand3x3, module.expand3x3_activation),
    ]
    widths = [module.expand1x1.out_channels, module.expand3x3.out_channels]
    expand, squeezed = _slice_concat(branches, widths, live)
    squeeze, live = slice_module(nn.Sequential(module.squeeze, module.squeeze_activation), squeezed)
    return _sequence(squeeze, expand), live


@slice_module.register(Inception)
def _(module: Any, live: Live) -> tuple[nn.Module, Live]:
    branches = [module.branch1, module.branch2, module.branch3, module.branch4]
    lasts = [module.branch1, module.branch2[-1], module.branch3[-1], module.branch4[-1]]
    return _slice_concat(branches, [last.conv.out_channels for last in lasts], live)


@slice_module.register(InvertedResidual)
def _(module: Any, live: Live) -> tuple[nn.Module, Live]:
    half = module.branch2[-2].num_features
    # The shuffle of two groups puts channel c of the concatenation at 2 (c mod half) + floor(c / half).
    live = Live(tuple(c % 2 * half + c // 2 for c in live.channels), live.factors)
    if module.stride > 1:
        return _slice_concat([module.branch1, module.branch2], [half, half], live)
    passed = [p for p, channel in enumerate(live.channels) if channel < half]
    computed = [p for p, channel in enumerate(live.channels) if channel >= half]
    if not computed:
        return nn.Identity(), live
    branch, read = slice_module(module.branch2, live.at(computed).shifted(-half))
    read = read.shifted(half)
    if not passed:
        return branch, read
    unit = _sequence(PassThrough(len(passed), branch), _reorder(passed + computed))
    return unit, live.at(passed) + read


def _slice_concat(branches: Sequence[nn.Module], widths: Sequence[int], live: Live) -> tuple[nn.Module, Live]:
    """Slice branches that read the same input and are concatenated; drop those with nothing live."""
    kept: list[tuple[nn.Module, Live]] = []
    order: list[int] = []
    start = 0
    for branch, width in zip(branches, widths, strict=True):
        here = [p for p, channel in enumerate(live.channels) if start <= channel < start + width]
        if here:
            kept.append(slice_module(branch, live.at(here).shifted(-start)))
            order += here
        start += width
    read = Live.plain(sorted({channel for _, part in kept for channel in part.channels}))
    parts = [_sequence(_select(read, part), branch) for branch, part in kept]
    return _sequence(Concat(parts) if len(parts) > 1 else parts[0], _reorder(order)), read


def _select(have: Live, want: Live) -> nn.Module:
    """What turns channels that are there, with factors of 1, into those wanted."""
    if have == want:
        return nn.Identity()
    where = {channel: position for position, channel in enumerate(have.channels)}
    return Select([where[channel] for channel in want.channels], want.factors)


def _reorder(order: Sequence[int]) -> nn.Module:
    """What puts channels that come as entries `order` of a list into the order of that list."""
    return _select(Live.plain(order), Live.plain(range(len(order))))


def _sequence(*modules: nn.Module) -> nn.Module:
    """The modules one after the other, without those that do nothing."""
    parts = [module for module in modules if not isinstance(module, nn.Identity)]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts) if parts else nn.Identity()


def _scaled(rows: Tensor, live: Live) -> nn.Parameter:
    """Rows of a weight or bias, each multiplied by its channel's factor in double precision."""
    factors = torch.tensor(live.factors, dtype=torch.float64).reshape(-1, *[1] * (rows.ndim - 1))
    return nn.Parameter((rows.double() * factors).to(rows.dtype), requires_grad=False)
