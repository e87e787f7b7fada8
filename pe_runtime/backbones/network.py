"""A truncated, selected, weighted torchvision network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pe_runtime.backbones.architectures import Chain, build_chain
from pe_runtime.backbones.state import tensors_of
from pe_runtime.backbones.weights import Weights, hash_weights, load_weights
from pe_runtime.channels import ChannelSet


class ChainNetwork(nn.Module):
    """Normalisation, then the steps of a chain up to the last tap, sliced to the channels wanted.

    `forward` takes images (B, 3, H, W) in [0, 1] and returns a dict of tap to (B, channels, h, w).

    Attributes:
        taps: names, in network order.
        channels: the selection per tap.
        out_channels: channels that `forward` gives per tap.
        full_channels: channels of the tap in the full network.
        min_size: least height and width.
        source: where the weights come from, in a few words.
        steps: the modules by step name; nothing after the last tap.

    Raises:
        OSError, TypeError, ValueError: see `load_weights`; also for unknown taps, two names of one
            tap, and channel sets that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, taps: Mapping[str, ChannelSet | None], weights: Weights, seed: int) -> None:
        # Imported here, with torchvision.
        from pe_runtime.backbones.slicing import slice_chain

        super().__init__()
        chain, positions = _truncated(name, taps)
        self.min_size = chain.min_size()
        widths = [channels for channels, _ in chain.map_shapes(self.min_size)]
        self.taps = tuple(positions.values())
        self.channels = {tap: taps[tap] for tap in self.taps}
        self.full_channels = {tap: widths[position] for position, tap in positions.items()}
        for tap, chosen in self.channels.items():
            if chosen is not None:
                chosen.check_fits(self.full_channels[tap], tap)
        self.out_channels = {
            tap: self.full_channels[tap] if chosen is None else len(chosen)
            for tap, chosen in self.channels.items()
        }

        state, self.source = load_weights(chain, weights, seed)
        chain.load(state)
        self._hashes = hash_weights(chain, self.taps)

        modules, heads = slice_chain(
            [step.module for step in chain.steps],
            widths,
            {position: self.channels[tap] for position, tap in positions.items()},
        )
        self.steps = nn.ModuleDict(
            {step.name: module for step, module in zip(chain.steps, modules, strict=True)}
        )
        self.heads = nn.ModuleDict({chain.steps[position].name: heads[position] for position in positions})
        self._tap_of = {chain.steps[position].name: tap for position, tap in positions.items()}
        self.register_buffer("mean", torch.tensor(chain.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(chain.std)[:, None, None], persistent=False)
        self.to(torch.float32)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of each tap, in network order."""
        features = (images - self.mean) / self.std
        outputs = {}
        for name, step in self.steps.items():
            features = step(features)
            if name in self._tap_of:
                outputs[self._tap_of[name]] = self.heads[name](features)
        return outputs

    def weights_hash(self, tap: str) -> str:
        """SHA-256 (hex) over the unsliced weights up to and including one of `taps`.

        Raises:
            ValueError: not one of this network's taps.
        """
        if tap not in self._hashes:
            raise ValueError(f"tap: expected one of {', '.join(map(repr, self.taps))}, got {tap!r}")
        return self._hashes[tap]

    def weight_names(self, tap: str) -> list[str]:
        """Parameters and buffers that one of `taps` is computed from, by name, as this network has them."""
        steps = list(self.steps)
        last = next(step for step, name in self._tap_of.items() if name == tap)
        read = {"mean", "std", f"heads.{last}", *(f"steps.{step}" for step in steps[: steps.index(last) + 1])}
        return [name for name in tensors_of(self) if ".".join(name.split(".")[:2]) in read]


def full_chain(name: str, taps: Mapping[str, ChannelSet | None]) -> nn.Sequential:
    """The network up to the last of the taps with all its channels, on the meta device."""
    chain, _ = _truncated(name, taps)
    return nn.Sequential(*[step.module for step in chain.steps])


def _truncated(name: str, taps: Mapping[str, ChannelSet | None]) -> tuple[Chain, dict[int, str]]:
    """The chain up to the last tap, and position to tap name in network order."""
    chain = build_chain(name)
    positions: dict[int, str] = {}
    for tap in taps:
        position = chain.position(tap)
        if position in positions:
            raise ValueError(f"taps: expected distinct taps, got {positions[position]!r} and {tap!r}")
        positions[position] = tap
    return chain.upto(max(positions)), dict(sorted(positions.items()))
