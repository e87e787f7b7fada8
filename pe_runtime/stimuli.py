"""Stimuli of the perceptual-efficacy score: sinusoidal gratings and the contrast sensitivity function.

Tariq et al. (ECCV 2020), Section 4.1. The paper leaves the stimulus open; every choice made here is a
field of `Stimulus`, and so is stored with every profile.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stimulus:
    """Everything that determines the gratings.

    Args:
        contrast: Michelson contrast c in (0, 1]; code values are 0.5 + 0.5 c cos(.).
        size: height and width of a grating in pixels, with the origin at its centre.
        pixels_per_degree: pixels per degree of visual angle (viewing distance and display).
        frequencies: how many radially symmetric gratings.
        lowest_frequency: of these, in cycles per degree; None: one cycle per image.
        highest_frequency: in cycles per degree, at most half the pixels per degree (Nyquist); None: 0.45
            cycles per pixel.
        orientations: how many oriented gratings, evenly in [0, pi).
        orientation_frequency: their frequency in cycles per degree; None: the peak of the CSF.
        phase: phase of every grating at the centre, in radians.

    Raises:
        ValueError: a field out of range.
    """

    contrast: float = 1.0
    size: int = 224
    pixels_per_degree: float = 32.0
    frequencies: int = 64
    lowest_frequency: float | None = None
    highest_frequency: float | None = None
    orientations: int = 36
    orientation_frequency: float | None = None
    phase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("contrast", "pixels_per_degree", "phase"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}: expected a finite number, got {getattr(self, name)}")
        if not 0 < self.contrast <= 1:
            raise ValueError(f"contrast: expected above 0 and at most 1, got {self.contrast}")
        if self.pixels_per_degree <= 0:
            raise ValueError(f"pixels_per_degree: expected above 0, got {self.pixels_per_degree}")
        for name, least in (("size", 2), ("frequencies", 3), ("orientations", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
        nyquist = self.pixels_per_degree / 2
        lowest, highest = self.frequency_range()
        if not 0 < lowest < highest <= nyquist:
            raise ValueError(
                "lowest_frequency, highest_frequency: expected 0 < lowest < highest <= "
                f"{nyquist:g} cycles per degree (Nyquist), got {lowest:g} and {highest:g}"
            )
        if not 0 < self.grating_frequency() <= nyquist:
            raise ValueError(
                f"orientation_frequency: expected above 0 and at most {nyquist:g} cycles per degree "
                f"(Nyquist), got {self.grating_frequency():g}"
            )

    def frequency_range(self) -> tuple[float, float]:
        """Lowest and highest frequency of the radially symmetric gratings, in cycles per degree."""
        lowest = (
            self.pixels_per_degree / self.size if self.lowest_frequency is None else self.lowest_frequency
        )
        highest = 0.45 * self.pixels_per_degree if self.highest_frequency is None else self.highest_frequency
        return lowest, highest

    def grating_frequency(self) -> float:
        """Frequency of the oriented gratings, in cycles per degree."""
        return csf_peak() if self.orientation_frequency is None else self.orientation_frequency

    def frequency_grid(self) -> FloatArray:
        """Frequencies of the radially symmetric gratings, (frequencies,), linear, in cycles per degree."""
        lowest, highest = self.frequency_range()
        return np.linspace(lowest, highest, self.frequencies).astype(np.float64)

    def orientation_grid(self) -> FloatArray:
        """Orientations of the oriented gratings, (orientations,), in radians in [0, pi)."""
        return np.linspace(0, np.pi, self.orientations, endpoint=False).astype(np.float64)

    def radial_grating(self, frequency: float) -> FloatArray:
        """A radially symmetric grating: all orientations at one frequency (paper, Section 4.1).

        Args:
            frequency: in cycles per degree.

        Returns:
            (size, size) code values in [0, 1]: 0.5 + 0.5 c cos(2 pi f r + phase), r in degrees.
        """
        x, y = self._degrees()
        return self._code_values(2 * np.pi * frequency * np.hypot(x, y))

    def oriented_grating(self, orientation: float) -> FloatArray:
        """A grating of one orientation, at the frequency `grating_frequency()`.

        Args:
            orientation: theta in radians: the direction in which the grating varies, from the x axis
                (to the right) towards the y axis (down).

        Returns:
            (size, size) code values in [0, 1]: 0.5 + 0.5 c cos(2 pi f (x cos theta + y sin theta) + phase).
        """
        x, y = self._degrees()
        distance = x * np.cos(orientation) + y * np.sin(orientation)
        return self._code_values(2 * np.pi * self.grating_frequency() * distance)

    def to_dict(self) -> dict[str, Any]:
        """Every parameter, defaults resolved to numbers, for a file."""
        lowest, highest = self.frequency_range()
        resolved = {
            "lowest_frequency": lowest,
            "highest_frequency": highest,
            "orientation_frequency": self.grating_frequency(),
        }
        return {**asdict(self), **resolved}

    @staticmethod
    def from_dict(values: object) -> Stimulus:
        """The inverse of `to_dict`.

        Raises:
            ValueError: not a dictionary of exactly the fields, or a field out of range.
        """
        if not isinstance(values, dict) or values.keys() != Stimulus.__dataclass_fields__.keys():
            names = ", ".join(Stimulus.__dataclass_fields__)
            raise ValueError(f"stimulus: expected exactly the fields {names}")
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values.values()):
            raise ValueError("stimulus: expected a number for every field")
        return Stimulus(**values)

    def _degrees(self) -> tuple[FloatArray, FloatArray]:
        along = (np.arange(self.size) - (self.size - 1) / 2) / self.pixels_per_degree
        x, y = np.meshgrid(along, along)
        return x, y

    def _code_values(self, angle: FloatArray) -> FloatArray:
        return 0.5 + 0.5 * self.contrast * np.cos(angle + self.phase)


def contrast_sensitivity(frequency: npt.ArrayLike) -> FloatArray:
    """Contrast sensitivity of the human visual system, relative to its peak of about 1.

    Mannos and Sakrison (1974): CSF(f) = 2.6 (0.0192 + 0.114 f) exp(-(0.114 f)^1.1).

    Args:
        frequency: in cycles per degree, >= 0, any shape.

    Returns:
        Sensitivities of the same shape.

    Raises:
        ValueError: a negative frequency.
    """
    f = np.asarray(frequency, dtype=np.float64)
    if (f < 0).any():
        raise ValueError("frequency: expected cycles per degree >= 0")
    return np.asarray(2.6 * (0.0192 + 0.114 * f) * np.exp(-((0.114 * f) ** 1.1)))


def csf_peak() -> float:
    """The frequency at which `contrast_sensitivity` is largest, about 7.89 cycles per degree.

    The root of the derivative, 1 = 1.1 (0.0192 + u) u^0.1 with u = 0.114 f, by bisection to the last bit.
    """
    low, high = 0.1, 2.0
    while low < (middle := (low + high) / 2) < high:
        if 1.1 * (0.0192 + middle) * middle**0.1 < 1:
            low = middle
        else:
            high = middle
    return low / 0.114
