"""Perceptual efficacy of the channels of a network: Tariq et al. (ECCV 2020), Section 4, Eq. 2 to 5.

Gratings go through the network, each channel's activation is averaged over space (`pe_runtime.tuning`),
and the resulting tuning curves are reduced to scores here:

* mu1 (Eq. 2): how strongly the mean activation follows spatial frequencies that the contrast
  sensitivity function favours. The 2018 version of the paper calls it Visual Frequency Sensitivity Score;
* mu2 (Eq. 3, 4): how selective the channel is for orientation;
* PE (Eq. 5): the product of both, each normalised by its sum over the channels of the layer.

PE grows as the cube of a channel's gain (mu1 as its first power, mu2 as its square), so it ranks loud
channels first. `gain_normalised` divides the gain out before the scores are taken.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pe_runtime.stimuli import FloatArray, contrast_sensitivity


class TuningCurves(NamedTuple):
    """Mean activations of one tap's channels: (C, frequencies) and (C, orientations)."""

    frequency: FloatArray
    orientation: FloatArray


def frequency_sensitivity(tuning: FloatArray, frequencies: FloatArray) -> FloatArray:
    """mu1, Eq. 2: sum over f of CSF(f) |d a(f) / d f|.

    Args:
        tuning: mean activations, (C, F).
        frequencies: the ascending grid they were measured on, (F,), in cycles per degree. The derivative
            is taken by central differences, one-sided at both ends.

    Returns:
        (C,), >= 0.
    """
    slopes = np.gradient(np.asarray(tuning, dtype=np.float64), frequencies, axis=1)
    return np.asarray((contrast_sensitivity(frequencies) * np.abs(slopes)).sum(axis=1))


def orientation_selectivity(tuning: FloatArray) -> FloatArray:
    """mu2, Eq. 3 and 4: sum over theta of (a(theta) - max a)^2.

    Args:
        tuning: mean activations, (C, orientations).

    Returns:
        (C,), >= 0; 0 for a channel without orientation preference.
    """
    values = np.asarray(tuning, dtype=np.float64)
    return np.asarray(((values - values.max(axis=1, keepdims=True)) ** 2).sum(axis=1))


def perceptual_efficacy(mu1: FloatArray, mu2: FloatArray) -> FloatArray:
    """PE, Eq. 5: mu1 mu2 / (sum of mu1 * sum of mu2), the sums over the channels of the layer.

    Args:
        mu1: (C,), >= 0.
        mu2: (C,), >= 0.

    Returns:
        (C,), >= 0; all 0 where no channel follows frequency or none prefers an orientation, for which
        Eq. 5 is 0 / 0.
    """
    total = mu1.sum() * mu2.sum()
    return mu1 * mu2 / total if total > 0 else np.zeros_like(mu1)


def gain_normalised(curves: TuningCurves) -> TuningCurves:
    """Divide each channel's curves by its largest absolute mean activation over all gratings.

    Scores of these curves do not change when a channel is multiplied by a constant, which Eq. 5 rewards
    with its cube. A channel that never responds stays 0.

    Args:
        curves: (C, frequencies) and (C, orientations).

    Returns:
        Curves of the same shapes, within [-1, 1].
    """
    gain = np.maximum(np.abs(curves.frequency).max(axis=1), np.abs(curves.orientation).max(axis=1))
    # A gain below the smallest normal number would overflow the division.
    gain = np.where(gain > np.finfo(np.float64).tiny, gain, math.inf)[:, None]
    return TuningCurves(curves.frequency / gain, curves.orientation / gain)
