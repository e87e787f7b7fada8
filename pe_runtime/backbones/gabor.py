"""The embedded default backbone: a model of primary visual cortex made in code (docs/gabor.md).

Opponent colours, an octave pyramid, quadrature pairs of Gabor filters, half-wave rectification, and divisive
normalisation by pooled local contrast energy (Heeger 1992; Teo and Heeger 1994); and, as a last tap, the
brightness and colour that the pyramid leaves over. No file, no download.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pe_runtime.backbones import gabor_filters as filters
from pe_runtime.backbones.gabor_filters import GaborChannel
from pe_runtime.backbones.state import tensors_of
from pe_runtime.channels import ChannelSet

GABOR_SCALES: tuple[str, ...] = tuple(f"scale{number}" for number in range(1, filters.SCALES + 1))
"""The taps with V1 responses: one per scale, finest first."""
LOWPASS = "lowpass"
"""The tap with what the octave pyramid leaves over: local brightness and colour."""
GABOR_TAPS: tuple[str, ...] = (*GABOR_SCALES, LOWPASS)
"""All taps, in network order."""


def build_gabor(taps: Mapping[str, ChannelSet | None]) -> GaborNetwork:
    """The V1 model with the given taps.

    Args:
        taps: names from GABOR_TAPS, each with the channels wanted (None: all).

    Raises:
        ValueError: no taps, an unknown tap, or a channel number that the tap lacks.
    """
    return GaborNetwork(taps)


class GaborNetwork(nn.Module):
    """V1 responses per scale, and local brightness and colour.

    `forward` takes images (B, 3, H, W), R'G'B' code values in [0, 1], and returns a dict of tap to
    responses, (B, channels, ceil(H / 2^s), ceil(W / 2^s)) with s = 0 for "scale1" and 4 for both "scale5" and
    "lowpass". They are >= 0, but for the chromatic channels of "lowpass", which are signed. Scales coarser
    than the last one asked for, and filters of channels left out, are not computed; the normalisation
    is that of the full network.

    Attributes:
        taps: names, finest first, "lowpass" last.
        channels: the selection per tap.
        out_channels: channels that `forward` gives per tap.
        full_channels: channels of the tap in the full network.
        min_size: least height and width: two pixels at the coarsest scale ("lowpass" is made from "scale5").

    Raises:
        ValueError: no taps, an unknown tap, or a channel number that the tap lacks.
    """

    opponent: Tensor
    pyramid: Tensor

    def __init__(self, taps: Mapping[str, ChannelSet | None]) -> None:
        super().__init__()
        unknown = [tap for tap in taps if tap not in GABOR_TAPS]
        if unknown or not taps:
            got = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"taps: expected some of {', '.join(map(repr, GABOR_TAPS))}, got {got}")
        self.taps = tuple(tap for tap in GABOR_TAPS if tap in taps)
        self.channels = {tap: taps[tap] for tap in self.taps}
        for tap, chosen in self.channels.items():
            if chosen is not None:
                chosen.check_fits(_channel_count(tap), tap)
        self.full_channels = {tap: _channel_count(tap) for tap in self.taps}
        self.out_channels = {
            tap: _channel_count(tap) if chosen is None else len(chosen)
            for tap, chosen in self.channels.items()
        }
        depth = min(GABOR_TAPS.index(self.taps[-1]) + 1, filters.SCALES)
        self.min_size = 2**depth
        self.register_buffer("opponent", _tensor(np.array(filters.OPPONENT)[:, :, None, None]))
        binomial = np.outer(filters.PYRAMID, filters.PYRAMID)
        self.register_buffer("pyramid", _tensor(np.tile(binomial, (len(filters.COLOURS), 1, 1, 1))))
        self.scales = nn.ModuleList(
            _Scale(number, self.channels[tap]) if tap in self.channels else nn.Identity()
            for number, tap in enumerate(GABOR_SCALES[:depth])
        )
        self.lowpass = _Lowpass(self.channels[LOWPASS]) if LOWPASS in self.channels else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Responses of each tap, in tap order."""
        colours = F.conv2d(images, self.opponent)
        responses = {}
        for number, scale in enumerate(self.scales):
            if number:
                colours = self._smoothed(colours, stride=2)
            if GABOR_SCALES[number] in self.channels:
                responses[GABOR_SCALES[number]] = scale(colours)
        if self.lowpass is not None:
            responses[LOWPASS] = self.lowpass(self._smoothed(colours, stride=1))
        return responses

    def weights_hash(self, tap: str) -> str:
        """SHA-256, in hex, over all filters and constants up to and including a tap, selected or not.

        Raises:
            ValueError: not one of GABOR_TAPS.
        """
        return filters.constants_hash(_tap_number(tap) + 1)

    def weight_names(self, tap: str) -> list[str]:
        """Buffers that one of `taps` is computed from, by name, as this network has them."""
        own = "lowpass." if tap == LOWPASS else f"scales.{_tap_number(tap)}."
        return [name for name in tensors_of(self) if name in ("opponent", "pyramid") or name.startswith(own)]

    def channel_labels(self, tap: str) -> tuple[GaborChannel, ...]:
        """What each channel of the full tap prefers, in channel order (a ChannelSet's indices point here).

        Raises:
            ValueError: not one of GABOR_TAPS.
        """
        number = _tap_number(tap)
        return tuple(filters.channel_label(number, channel) for channel in range(_channel_count(tap)))

    def _smoothed(self, colours: Tensor, stride: int) -> Tensor:
        padded = F.pad(colours, (2, 2, 2, 2), mode="replicate")
        return F.conv2d(padded, self.pyramid, stride=stride, groups=len(filters.COLOURS))


class _Scale(nn.Module):
    """Filters, rectification and normalisation of one scale: opponent colours in, responses out."""

    energy: Tensor
    pool: Tensor
    saturation: Tensor

    def __init__(self, number: int, chosen: ChannelSet | None) -> None:
        super().__init__()
        bank = filters.quadrature_bank()
        self.colours = nn.ModuleList()
        self.inputs: list[int] = []
        for colour in range(len(filters.COLOURS)):
            channels = _channels_of(colour, chosen)
            if channels:
                self.inputs.append(colour)
                self.colours.append(_Rectified(bank, channels, filters.GAINS[number][colour]))
        count = len(self.inputs)
        self.register_buffer("energy", _tensor(np.tile(filters.energy_filter(), (count, 1, 1, 1))))
        self.register_buffer("pool", _tensor(np.tile(filters.pooling_filter(), (count, 1, 1, 1))))
        self.register_buffer("saturation", _tensor(np.array(filters.SEMI_SATURATION)))

    def forward(self, colours: Tensor) -> Tensor:
        inputs = colours if len(self.inputs) == len(filters.COLOURS) else colours[:, self.inputs]
        radius = filters.KERNEL_RADIUS
        padded = F.pad(inputs, (radius, radius, radius, radius), mode="replicate")
        factor = (self.saturation**2 + self._contrast_energy(padded)) ** (-filters.EXPONENT / 2)
        responses: list[Tensor] = []
        for index, colour in enumerate(self.colours):
            responses += colour(padded[:, index : index + 1], factor[:, index : index + 1])
        return torch.cat(responses, dim=1)

    def _contrast_energy(self, padded: Tensor) -> Tensor:
        """Squared contrast amplitude around each pixel: that of a grating of amplitude a is a^2."""
        count, radius = len(self.inputs), filters.POOL_RADIUS
        energy = 2 * F.conv2d(padded, self.energy, groups=count) ** 2
        energy = F.pad(energy, (radius, radius, radius, radius), mode="replicate")
        energy = F.conv2d(energy, self.pool, groups=count)
        return F.conv2d(energy, self.pool.transpose(2, 3), groups=count)


class _Rectified(nn.Module):
    """One colour's filters, normalised and rectified into on and off; weights and gain are in the filters."""

    kernels: Tensor
    on: Tensor
    off: Tensor

    def __init__(self, bank: np.ndarray, channels: list[tuple[int, float]], gain: float) -> None:
        super().__init__()
        # On and off channels of equal weight share a filter, so the full network computes each once.
        rows: dict[tuple[int, int, float], int] = {}
        on: list[int] = []
        off: list[int] = []
        for channel, weight in channels:
            phase, orientation = divmod(channel, filters.ORIENTATIONS)
            row = rows.setdefault((phase % 2, orientation, weight), len(rows))
            (on if phase < 2 else off).append(row)
        kernels = [gain * weight * bank[phase, orientation] for phase, orientation, weight in rows]
        self.register_buffer("kernels", _tensor(np.stack(kernels)[:, None]))
        self.register_buffer("on", torch.tensor(on, dtype=torch.long), persistent=False)
        self.register_buffer("off", torch.tensor(off, dtype=torch.long), persistent=False)
        self.shared = on == off == list(range(len(rows)))

    def forward(self, padded: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        responses = F.conv2d(padded, self.kernels) * factor
        if self.shared:
            on = F.relu(responses)
            return on, on - responses  # exactly relu(-responses), in one pass over memory
        return F.relu(responses[:, self.on]), F.relu(-responses[:, self.off])


class _Lowpass(nn.Module):
    """Smoothed opponent colours in, those selected out, times gain and weight."""

    gains: Tensor

    def __init__(self, chosen: ChannelSet | None) -> None:
        super().__init__()
        selected = _selected(len(filters.COLOURS), chosen)
        self.indices = [index for index, _ in selected]
        gains = [filters.LOWPASS_GAINS[index] * weight for index, weight in selected]
        self.register_buffer("gains", _tensor(np.array(gains)[:, None, None]))

    def forward(self, colours: Tensor) -> Tensor:
        return colours[:, self.indices] * self.gains


def _channels_of(colour: int, chosen: ChannelSet | None) -> list[tuple[int, float]]:
    """A scale's selected channels of a colour, numbered within it, with their weights."""
    each = filters.CHANNELS // len(filters.COLOURS)
    return [
        (index - colour * each, weight)
        for index, weight in _selected(filters.CHANNELS, chosen)
        if index // each == colour
    ]


def _selected(count: int, chosen: ChannelSet | None) -> list[tuple[int, float]]:
    """The selected of `count` channels, with their weights."""
    indices = range(count) if chosen is None else chosen.indices
    weights = [1.0] * len(indices) if chosen is None or chosen.weights is None else chosen.weights
    return list(zip(indices, weights, strict=True))


def _channel_count(tap: str) -> int:
    """Channels of a tap in the full network."""
    return len(filters.COLOURS) if tap == LOWPASS else filters.CHANNELS


def _tap_number(tap: str) -> int:
    if tap not in GABOR_TAPS:
        raise ValueError(f"tap: expected one of {', '.join(map(repr, GABOR_TAPS))}, got {tap!r}")
    return GABOR_TAPS.index(tap)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
