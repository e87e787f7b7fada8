"""Profiles: the scores of one tap's channels, as a file, as channel sets and as plots."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pe_runtime import __version__
from pe_runtime.atomic import atomic_path
from pe_runtime.channels import ChannelSet, percentile_set, random_indices
from pe_runtime.checks import check_choice, parse_json
from pe_runtime.efficacy import (
    TuningCurves,
    frequency_sensitivity,
    gain_normalised,
    orientation_selectivity,
    perceptual_efficacy,
)
from pe_runtime.stimuli import FloatArray, Stimulus

SCORES = ("pe", "mu1", "mu2", "pe_gain_normalised")
"""The scores of a profile: Eq. 5, Eq. 2, Eq. 4, and Eq. 5 of gain-normalised tuning curves."""

Weighting = str | Iterable[float] | None
"""Weights of a channel set: "uniform" or None, the name of a score, or one number per channel."""

_FORMAT = 1
_METADATA_KEY = "pe_runtime"
_CURVES = ("frequency_tuning", "orientation_tuning")


@dataclass(frozen=True, eq=False)
class Profile:
    """Tuning curves and scores of every channel of one tap.

    Args:
        backbone: name of the backbone.
        tap: name of the tap.
        weights_hash: SHA-256 of the weights up to the tap (`Backbone.weights_hash`).
        stimulus: the gratings.
        dtype: what the network computed in, "float32" or "float64".
        frequency_tuning: mean activations for the radially symmetric gratings, (C, frequencies).
        orientation_tuning: mean activations for the oriented gratings, (C, orientations).
        version: of the pe_runtime that measured it.

    Raises:
        ValueError: curves of a wrong shape or with values that are not finite; an unknown dtype.
    """

    backbone: str
    tap: str
    weights_hash: str
    stimulus: Stimulus
    dtype: str
    frequency_tuning: FloatArray = field(repr=False)
    orientation_tuning: FloatArray = field(repr=False)
    version: str = __version__

    def __post_init__(self) -> None:
        check_choice(self.dtype, "dtype", ("float32", "float64"))
        expected = (self.stimulus.frequencies, self.stimulus.orientations)
        for name, width in zip(_CURVES, expected, strict=True):
            curves = getattr(self, name)
            if curves.ndim != 2 or curves.shape[0] == 0 or curves.shape[1] != width:
                raise ValueError(f"{name}: expected shape (channels, {width}), got {curves.shape}")
            if not np.isfinite(curves).all():
                raise ValueError(f"{name}: expected finite mean activations, got some that are not")
        if len(self.frequency_tuning) != len(self.orientation_tuning):
            raise ValueError("frequency_tuning, orientation_tuning: expected the same number of channels")

    def __len__(self) -> int:
        return len(self.frequency_tuning)

    @cached_property
    def mu1(self) -> FloatArray:
        """Frequency sensitivity of each channel, (C,), Eq. 2 (the 2018 paper's VFSS)."""
        return frequency_sensitivity(self.frequency_tuning, self.stimulus.frequency_grid())

    @cached_property
    def mu2(self) -> FloatArray:
        """Orientation selectivity of each channel, (C,), Eq. 4."""
        return orientation_selectivity(self.orientation_tuning)

    @cached_property
    def pe(self) -> FloatArray:
        """Perceptual efficacy of each channel, (C,), Eq. 5."""
        return perceptual_efficacy(self.mu1, self.mu2)

    @cached_property
    def pe_gain_normalised(self) -> FloatArray:
        """Eq. 5 of curves from which each channel's gain is divided out, (C,)."""
        curves = gain_normalised(TuningCurves(self.frequency_tuning, self.orientation_tuning))
        mu1 = frequency_sensitivity(curves.frequency, self.stimulus.frequency_grid())
        return perceptual_efficacy(mu1, orientation_selectivity(curves.orientation))

    def score(self, name: str) -> FloatArray:
        """A score by its name, one of `SCORES`, (C,).

        Raises:
            ValueError: another name.
        """
        check_choice(name, "score", SCORES)
        values: FloatArray = getattr(self, name)
        return values

    def top(self, percent: float, score: str = "pe", weights: Weighting = "uniform") -> ChannelSet:
        """H-x, Eq. 7: the channels whose score is at least the (100 - x)th percentile.

        Args:
            percent: x, in (0, 100].
            score: which of `SCORES` ranks the channels.
            weights: "uniform", the name of a score (weights proportional to it, with mean 1), or one
                number per selected channel.

        Raises:
            ValueError: an unknown score, percent out of range, or unusable weights.
        """
        chosen = percentile_set(self.score(score), percent, top=True)
        return self._set(chosen, f"H-{percent:g}", score, weights)

    def bottom(self, percent: float, score: str = "pe", weights: Weighting = "uniform") -> ChannelSet:
        """L-x, Eq. 8: the channels whose score is at most the x-th percentile. See `top`.

        Where many channels score exactly 0, as in deep layers, the set holds all of them and may be
        the same for different x.
        """
        chosen = percentile_set(self.score(score), percent, top=False)
        return self._set(chosen, f"L-{percent:g}", score, weights)

    def all(self, score: str = "pe", weights: Weighting = "uniform") -> ChannelSet:
        """F, Eq. 6: all channels. See `top`."""
        return self._set(range(len(self)), "F", score, weights)

    def weighted(self, score: str = "pe") -> ChannelSet:
        """All channels, weighted in proportion to a score (with mean 1)."""
        return self.all(score, weights=score)

    def random(
        self, percent: float, seed: int = 0, score: str = "pe", weights: Weighting = "uniform"
    ) -> ChannelSet:
        """As many channels as `top(percent, score)` has, drawn at random: the control beside H-x."""
        count = len(percentile_set(self.score(score), percent, top=True))
        chosen = random_indices(len(self), count, seed)
        return self._set(chosen, f"random-{percent:g} seed {seed}", score, weights)

    def select(
        self, indices: Iterable[int], weights: Weighting = "uniform", name: str = "custom"
    ) -> ChannelSet:
        """An explicit list of channels, in any order. See `top` for the weights.

        Raises:
            ValueError: a channel that does not exist, or is given twice.
        """
        listed = [int(index) for index in indices]
        if not isinstance(weights, str) and weights is not None:
            # Numbers belong to the channels in the order given: sort both together.
            numbers = list(weights)
            if len(numbers) != len(listed):
                raise ValueError(f"weights: expected {len(listed)} numbers, got {len(numbers)}")
            weights = [number for _, number in sorted(zip(listed, numbers, strict=True))]
        chosen = ChannelSet(sorted(listed))
        chosen.check_fits(len(self), self.tap)
        return self._set(chosen.indices, name, "pe", weights)

    def _set(self, indices: Iterable[int], name: str, score: str, weights: Weighting) -> ChannelSet:
        chosen = tuple(indices)
        label = name if score == "pe" else f"{name} {score}"
        if weights is None or weights == "uniform":
            return ChannelSet(chosen, None, label, self.weights_hash)
        if isinstance(weights, str):
            values = self.score(weights)[list(chosen)]
            if not values.any():
                raise ValueError(f"weights: the selected channels all score 0 in {weights!r}")
            return ChannelSet(chosen, values / values.mean(), f"{label} x {weights}", self.weights_hash)
        return ChannelSet(chosen, weights, label, self.weights_hash)

    def plot(self, path: str | os.PathLike[str], channels: Sequence[int] | None = None) -> None:
        """Draw tuning curves (as the paper's Fig. 2 and 3) into a PNG or SVG file.

        Args:
            path: where to; the suffix chooses the format.
            channels: which channels; None: the highest, the median and the lowest PE above 0.

        Raises:
            ValueError: another suffix, or a channel that does not exist.
        """
        from pe_runtime import plots

        plots.plot_tuning(self, path, channels)

    def plot_scores(self, path: str | os.PathLike[str]) -> None:
        """Draw PE of every channel, sorted, with mu1 and mu2, into a PNG or SVG file. See `plot`."""
        from pe_runtime import plots

        plots.plot_scores(self, path)

    def describe(self) -> dict[str, Any]:
        """What the profile is of, without its arrays, for a file or a table."""
        return {
            "format": _FORMAT,
            "pe_runtime": self.version,
            "backbone": self.backbone,
            "tap": self.tap,
            "weights_hash": self.weights_hash,
            "dtype": self.dtype,
            "stimulus": self.stimulus.to_dict(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file: scores, tuning curves and grids, and JSON metadata.

        Raises:
            ValueError: the suffix is not .safetensors.
            OSError: the file cannot be written.
        """
        if Path(path).suffix != ".safetensors":
            raise ValueError(f"path: expected a name that ends in .safetensors, got {str(path)!r}")
        tensors = self._tensors()
        description = self.describe()
        metadata = {**description, "sha256": _digest(description, tensors)}
        with atomic_path(path) as temporary:
            safetensors.numpy.save_file(
                tensors, temporary, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)}
            )

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Profile:
        """Read a profile and check all of it: format, arrays, checksum, and that the scores follow.

        Raises:
            ValueError: not a profile, damaged, or of a format this version does not know.
            OSError: the file cannot be read.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"profile: no file {str(path)!r}")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = _parse_metadata(file.metadata())
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (safetensors.SafetensorError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"profile: {str(path)!r} is not a readable profile: {error}") from error
        try:
            return _from_parts(metadata, tensors)
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"profile: {str(path)!r} does not hold together: {error}") from error

    def _tensors(self) -> dict[str, FloatArray]:
        arrays = {
            "frequencies": self.stimulus.frequency_grid(),
            "orientations": self.stimulus.orientation_grid(),
            "frequency_tuning": self.frequency_tuning,
            "orientation_tuning": self.orientation_tuning,
            **{name: self.score(name) for name in SCORES},
        }
        return {name: np.ascontiguousarray(values, dtype=np.float64) for name, values in arrays.items()}


def _parse_metadata(metadata: dict[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(_METADATA_KEY)
    if text is None:
        raise ValueError(f"expected metadata under {_METADATA_KEY!r}")
    values = parse_json(text)
    names = ("format", "pe_runtime", "backbone", "tap", "weights_hash", "dtype", "stimulus", "sha256")
    if not isinstance(values, dict) or values.keys() != set(names):
        raise ValueError(f"expected metadata with exactly the fields {', '.join(names)}")
    if values["format"] != _FORMAT:
        raise ValueError(f"format: expected {_FORMAT}, got {values['format']!r}")
    for name in ("pe_runtime", "backbone", "tap", "weights_hash", "dtype", "sha256"):
        if not isinstance(values[name], str):
            raise ValueError(f"{name}: expected text, got {values[name]!r}")
    return values


def _from_parts(metadata: dict[str, Any], tensors: dict[str, FloatArray]) -> Profile:
    expected = {"frequencies", "orientations", *_CURVES, *SCORES}
    if tensors.keys() != expected:
        raise ValueError(f"expected the arrays {', '.join(sorted(expected))}")
    for name, values in tensors.items():
        if values.dtype != np.float64:
            raise ValueError(f"{name}: expected float64, got {values.dtype}")
    description = {name: value for name, value in metadata.items() if name != "sha256"}
    if _digest(description, tensors) != metadata["sha256"]:
        raise ValueError("sha256: the metadata or the arrays are not those that were saved")
    profile = Profile(
        backbone=metadata["backbone"],
        tap=metadata["tap"],
        weights_hash=metadata["weights_hash"],
        stimulus=Stimulus.from_dict(metadata["stimulus"]),
        dtype=metadata["dtype"],
        frequency_tuning=tensors["frequency_tuning"],
        orientation_tuning=tensors["orientation_tuning"],
        version=metadata["pe_runtime"],
    )
    # The scores in the file are for other readers; here they must be what the curves give.
    for name, values in profile._tensors().items():
        stored = tensors[name]
        if stored.shape != values.shape or not np.allclose(stored, values, rtol=1e-9, atol=0):
            raise ValueError(f"{name}: does not follow from the tuning curves and the stimulus")
    return profile


def _digest(description: dict[str, Any], tensors: dict[str, FloatArray]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        values = tensors[name]
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
