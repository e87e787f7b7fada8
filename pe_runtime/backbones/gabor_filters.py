"""The constants and filters of the `gabor` backbone: `gabor.py` runs them, docs/gabor.md explains them."""

from __future__ import annotations

import hashlib
import json
import math
from typing import NamedTuple

import numpy as np

COLOURS = ("luminance", "red-green", "blue-yellow")
"""Opponent channels, in channel order."""

OPPONENT = (
    (0.299, 0.587, 0.114),
    (0.5, -0.5, 0.0),
    (-0.25, -0.25, 0.5),
)
"""Rows: weights of R, G and B (code values) in each opponent channel; each chromatic row sums to 0."""

SCALES = 5
ORIENTATIONS = 6
PHASES = (0, 90, 180, 270)
"""Preferred phases in degrees: even on, odd on, even off, odd off."""

WAVELENGTH = 4.0
"""Wavelength of the filters, in pixels of their own scale."""
ENVELOPE = 0.56
"""Standard deviation of the Gaussian envelope in wavelengths: a bandwidth of one octave."""
KERNEL_RADIUS = 6
"""The filters have 2 * KERNEL_RADIUS + 1 taps a side."""
POOL_SIGMA = 1.5
"""Standard deviation of the Gaussian over which contrast energy is pooled, in pixels of the scale."""
POOL_RADIUS = 4
PYRAMID = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Binomial low-pass filter before each subsampling by 2."""

SEMI_SATURATION = 0.01
"""Contrast amplitude, in code values, at which responses turn from linear to compressive."""
EXPONENT = 0.5
"""q in response / (semi-saturation^2 + energy)^(q / 2): 0 leaves responses linear, 1 makes them saturate."""
GAINS = (
    (25.0, 7.0, 7.0),
    (100.0, 20.0, 20.0),
    (50.0, 20.0, 30.0),
    (30.0, 30.0, 40.0),
    (40.0, 40.0, 50.0),
)
"""Gain of the responses: a row per scale, a column per opponent channel; squared, its share in a distance.

What all have in common, the 100, puts distances of visible distortions between about 0.01 and 1.
"""
LOWPASS_GAINS = (7.4, 12.0, 12.0)
"""Gain of each opponent channel in what the pyramid leaves over; squared, its share in a distance."""

CHANNELS = len(COLOURS) * len(PHASES) * ORIENTATIONS
"""Channels of each scale."""


class GaborChannel(NamedTuple):
    """What one channel prefers: the grating cos(2 pi f (x cos o + y sin o) - phase).

    Attributes:
        colour: one of COLOURS.
        orientation: o in degrees, [0, 180): the direction of the grating's wave vector, from x (right)
            towards y (down). 0 prefers vertical stripes. None for the low-pass channels.
        phase: in degrees, relative to the pixel that the response belongs to: 0 a bright bar, 180 a dark
            bar, 90 and 270 edges (bright on the side that the wave vector points to, and opposite). None for
            the low-pass channels.
        wavelength: in pixels of the input image; infinite for the low-pass channels.
        frequency: f, in cycles per pixel of the input image; 0 for the low-pass channels.
    """

    colour: str
    orientation: float | None
    phase: float | None
    wavelength: float
    frequency: float


def channel_label(scale: int, channel: int) -> GaborChannel:
    """The label of a channel: at a scale, channel = (colour * 4 + phase) * ORIENTATIONS + orientation.

    Args:
        scale: 0 for the finest, SCALES for the low-pass channels, one a colour.
        channel: in [0, CHANNELS), or of the low-pass channels in [0, len(COLOURS)).
    """
    if scale == SCALES:
        return GaborChannel(COLOURS[channel], None, None, math.inf, 0.0)
    colour, rest = divmod(channel, len(PHASES) * ORIENTATIONS)
    phase, orientation = divmod(rest, ORIENTATIONS)
    wavelength = WAVELENGTH * 2**scale
    return GaborChannel(
        COLOURS[colour],
        180.0 * orientation / ORIENTATIONS,
        float(PHASES[phase]),
        wavelength,
        1 / wavelength,
    )


def quadrature_bank() -> np.ndarray:
    """The filters, float64, (2, ORIENTATIONS, taps, taps): even, then odd; to be correlated with the image.

    Zero mean; a grating at the preferred frequency, orientation and phase with amplitude 1 gives 1.
    """
    axis = np.arange(-KERNEL_RADIUS, KERNEL_RADIUS + 1, dtype=np.float64)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    envelope = np.exp(-(x**2 + y**2) / (2 * (ENVELOPE * WAVELENGTH) ** 2))
    bank = np.empty((2, ORIENTATIONS, axis.size, axis.size))
    for index in range(ORIENTATIONS):
        angle = math.pi * index / ORIENTATIONS
        carrier = 2 * math.pi / WAVELENGTH * (x * math.cos(angle) + y * math.sin(angle))
        for phase, wave in enumerate((np.cos(carrier), np.sin(carrier))):
            mean = (envelope * wave).sum() / envelope.sum()
            kernel = envelope * (wave - mean)
            bank[phase, index] = kernel / (kernel * wave).sum()
    return bank


def energy_filter() -> np.ndarray:
    """An isotropic band-pass filter, float64, (taps, taps), with the power spectrum of the whole bank.

    By Parseval's theorem the mean square of its output is the bank's mean square response summed over
    orientations and phases, so it stands for the pool over them at the cost of one filter. Zero mean;
    scaled to a gain of 1 at the filters' frequency, averaged over their orientations.
    """
    size = 64
    bank = quadrature_bank()
    power = (np.abs(np.fft.fft2(bank, s=(size, size))) ** 2).sum(axis=(0, 1))
    kernel = np.fft.fftshift(np.fft.ifft2(np.sqrt(power)).real)
    centre = size // 2
    window = slice(centre - KERNEL_RADIUS, centre + KERNEL_RADIUS + 1)
    kernel = kernel[window, window]
    kernel = kernel - kernel.mean()
    axis = np.arange(-KERNEL_RADIUS, KERNEL_RADIUS + 1, dtype=np.float64)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angles = np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
    gains = [
        (kernel * np.cos(2 * np.pi / WAVELENGTH * (x * np.cos(angle) + y * np.sin(angle)))).sum()
        for angle in angles
    ]
    return kernel / np.mean(gains)


def pooling_filter() -> np.ndarray:
    """The 1-D Gaussian that pools contrast energy along each axis: float64, sum 1."""
    axis = np.arange(-POOL_RADIUS, POOL_RADIUS + 1, dtype=np.float64)
    kernel = np.exp(-(axis**2) / (2 * POOL_SIGMA**2))
    return kernel / kernel.sum()


def constants_hash(taps: int) -> str:
    """SHA-256, in hex, over everything that the first `taps` taps (scales, then lowpass) are computed from.

    Values are rounded to 2^-20 first: the last bits of exp and cos differ between platforms.
    """
    constants = [OPPONENT, PYRAMID, SEMI_SATURATION, EXPONENT, (*GAINS, LOWPASS_GAINS)[:taps]]
    digest = hashlib.sha256(json.dumps(["gabor", 2, taps, constants]).encode())
    for values in (quadrature_bank(), energy_filter(), pooling_filter()):
        digest.update(np.rint(values * 2**20).astype("<i8").tobytes())
    return digest.hexdigest()
