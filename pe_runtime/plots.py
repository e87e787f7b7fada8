"""Plots of profiles: tuning curves (the paper's Fig. 2 and 3) and sorted scores, as PNG or SVG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pe_runtime.atomic import atomic_path
from pe_runtime.stimuli import contrast_sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pe_runtime.profiles import Profile

_MAX_CHANNELS = 16


def plot_tuning(
    profile: Profile, path: str | os.PathLike[str], channels: Sequence[int] | None = None
) -> None:
    """Draw the frequency and orientation tuning of some channels, a row each, beside the CSF.

    Args:
        profile: whose curves.
        path: where to; .png or .svg.
        channels: at most 16 channel numbers; None: the highest, the median and the lowest PE
            above 0.

    Raises:
        ValueError: another suffix, a channel that does not exist, or none or too many.
    """
    chosen = _default_channels(profile) if channels is None else list(channels)
    if not 1 <= len(chosen) <= _MAX_CHANNELS:
        raise ValueError(f"channels: expected 1 to {_MAX_CHANNELS} of them, got {len(chosen)}")
    for channel in chosen:
        if not 0 <= channel < len(profile):
            raise ValueError(f"channels: expected numbers below {len(profile)}, got {channel}")
    figure = _figure(8.5, 0.8 + 2.1 * len(chosen))
    rows = figure.subplots(len(chosen), 2, squeeze=False)
    for row, channel in zip(rows, chosen, strict=True):
        _draw_frequency(row[0], profile, channel)
        _draw_orientation(row[1], profile, channel)
    rows[-1][0].set_xlabel("spatial frequency (cycles per degree)")
    rows[-1][1].set_xlabel("orientation (degrees)")
    rows[0][0].set_title("frequency tuning, radial gratings", fontsize=10)
    rows[0][1].set_title(
        f"orientation tuning at {profile.stimulus.grating_frequency():.3g} cycles per degree", fontsize=10
    )
    figure.suptitle(f"{profile.backbone}, {profile.tap}: tuning of {len(chosen)} of {len(profile)} channels")
    _save(figure, path)


def plot_scores(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Draw PE of every channel in descending order, how it accumulates, and mu1 against mu2.

    Args:
        profile: whose scores.
        path: where to; .png or .svg.

    Raises:
        ValueError: another suffix.
    """
    figure = _figure(10, 4)
    bars, scatter = figure.subplots(1, 2)
    order = np.argsort(profile.pe)[::-1]
    ranks = np.arange(1, len(profile) + 1)
    bars.bar(ranks, profile.pe[order], width=1.0, color="C0")
    bars.set_xlabel("channels, by descending PE")
    bars.set_ylabel("PE (Eq. 5)", color="C0")
    total = profile.pe.sum()
    if total > 0:
        share = bars.twinx()
        share.plot(ranks, 100 * np.cumsum(profile.pe[order]) / total, color="C1")
        share.set_ylabel("share of the tap's PE so far (%)", color="C1")
        share.set_ylim(0, 105)
    drawn = scatter.scatter(profile.mu1, profile.mu2, c=profile.pe, s=14, cmap="viridis")
    scatter.set_xlabel("mu1: frequency sensitivity (Eq. 2)")
    scatter.set_ylabel("mu2: orientation selectivity (Eq. 4)")
    figure.colorbar(drawn, ax=scatter, label="PE")
    zeros = int((profile.pe == 0).sum())
    figure.suptitle(f"{profile.backbone}, {profile.tap}: {len(profile)} channels, {zeros} of them with PE 0")
    _save(figure, path)


def _default_channels(profile: Profile) -> list[int]:
    order = np.argsort(profile.pe, kind="stable")[::-1]
    # Silent channels have nothing to show, unless there are no others.
    count = max(1, int((profile.pe > 0).sum()))
    return list(dict.fromkeys(int(order[rank]) for rank in (0, count // 2, count - 1)))


def _draw_frequency(axes: Axes, profile: Profile, channel: int) -> None:
    frequencies = profile.stimulus.frequency_grid()
    axes.plot(frequencies, profile.frequency_tuning[channel], color="C0")
    axes.set_ylabel(f"channel {channel}\nmean activation", color="C0")
    csf = axes.twinx()
    csf.plot(frequencies, contrast_sensitivity(frequencies), color="0.6", linestyle="--")
    csf.set_ylim(0, 1.3)
    csf.set_yticks([0, 0.5, 1])
    csf.set_ylabel("CSF", color="0.5")
    _annotate(axes, f"mu1 = {profile.mu1[channel]:.3g}, PE = {profile.pe[channel]:.3g}")


def _draw_orientation(axes: Axes, profile: Profile, channel: int) -> None:
    degrees = np.rad2deg(profile.stimulus.orientation_grid())
    axes.plot(degrees, profile.orientation_tuning[channel], color="C3")
    axes.set_xlim(0, 180)
    axes.set_xticks([0, 45, 90, 135, 180])
    _annotate(axes, f"mu2 = {profile.mu2[channel]:.3g}")


def _annotate(axes: Axes, text: str) -> None:
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
    axes.text(0.98, 0.95, text, transform=axes.transAxes, ha="right", va="top", fontsize=8, bbox=box)
    axes.margins(y=0.2)


def _figure(width: float, height: float) -> Figure:
    # Figure without pyplot: no global state, no display, safe in threads.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise ValueError(f"path: expected a name that ends in .png or .svg, got {str(path)!r}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=120)
