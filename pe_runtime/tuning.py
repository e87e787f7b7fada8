"""Tuning curves: what the channels of a network answer to gratings, and the profiles made from them.

Tariq et al. (ECCV 2020), Section 4.1. The scores themselves are in `pe_runtime.efficacy`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from pe_runtime.efficacy import TuningCurves
from pe_runtime.profiles import Profile
from pe_runtime.stimuli import FloatArray, Stimulus

if TYPE_CHECKING:
    from pe_runtime.backbones import Backbone

# What images are made like for a network without a parameter or buffer.
_PLAIN = torch.zeros((), dtype=torch.float32, device="cpu")


def score_channels(
    backbone: Backbone,
    taps: Iterable[str] | None = None,
    stimulus: Stimulus | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    batch_size: int = 8,
    progress: bool | None = None,
) -> dict[str, Profile]:
    """Score every channel of the taps of a backbone.

    Args:
        backbone: a backbone without channel selection at the scored taps. It is not changed.
        taps: which of its taps; None: all.
        stimulus: the gratings; None: the defaults.
        dtype: torch.float32 or torch.float64, what the network computes in.
        device: where it computes; None: where the backbone is.
        batch_size: gratings per forward pass.
        progress: show a progress bar on standard error; None: if that is a terminal.

    Returns:
        Tap -> profile, with the scores of Eq. 2 to 5.

    Raises:
        ValueError: an unknown tap, a tap with a channel selection, another dtype, a batch size below 1,
            or gratings smaller than the backbone accepts.
    """
    stimulus = stimulus or Stimulus()
    chosen = tuple(backbone.taps if taps is None else taps)
    for tap in chosen:
        if tap not in backbone.taps:
            raise ValueError(f"taps: expected some of {', '.join(backbone.taps)}, got {tap!r}")
        if backbone.channels[tap] is not None:
            raise ValueError(f"backbone: expected all channels at tap {tap!r}, got a selection of them")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
    if stimulus.size < backbone.min_size:
        raise ValueError(f"stimulus: expected a size of at least {backbone.min_size}, got {stimulus.size}")
    # A copy, because .to() changes a module in place and the caller may be training with it.
    network = copy.deepcopy(backbone).to(device=device, dtype=dtype)
    curves = tuning_curves(network, stimulus, chosen, batch_size=batch_size, progress=progress)
    return {
        tap: Profile(
            backbone=backbone.name,
            tap=tap,
            weights_hash=backbone.weights_hash(tap),
            stimulus=stimulus,
            dtype=str(dtype).removeprefix("torch."),
            frequency_tuning=curves[tap].frequency,
            orientation_tuning=curves[tap].orientation,
        )
        for tap in chosen
    }


def tuning_curves(
    network: torch.nn.Module,
    stimulus: Stimulus,
    taps: Sequence[str],
    *,
    batch_size: int = 8,
    progress: bool | None = None,
) -> dict[str, TuningCurves]:
    """Mean activation of every channel for every grating (paper, Section 4.1).

    Args:
        network: any module that takes images (B, 3, H, W) in [0, 1] and gives a dictionary of tap to
            (B, C, h, w). Images are made in the dtype and on the device of its first parameter or buffer.
        stimulus: the gratings.
        taps: keys of that dictionary.
        batch_size: gratings per forward pass.
        progress: show a progress bar on standard error; None: if that is a terminal.

    Returns:
        Tap -> curves in float64; the average over space is accumulated in float64.

    Raises:
        ValueError: a batch size below 1, or an activation that is not finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    frequency_grid, orientation_grid = stimulus.frequency_grid(), stimulus.orientation_grid()
    makers: list[Callable[[], FloatArray]] = [
        *(partial(stimulus.radial_grating, frequency) for frequency in frequency_grid),
        *(partial(stimulus.oriented_grating, orientation) for orientation in orientation_grid),
    ]
    example = next(iter([*network.parameters(), *network.buffers()]), _PLAIN)
    columns: dict[str, list[FloatArray]] = {tap: [] for tap in taps}
    shown = sys.stderr.isatty() if progress is None else progress
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
    with bar, torch.inference_mode():
        task = bar.add_task("gratings", total=len(makers))
        for start in range(0, len(makers), batch_size):
            gratings = np.stack([make() for make in makers[start : start + batch_size]])
            images = torch.from_numpy(gratings)[:, None].expand(-1, 3, -1, -1).to(example)
            for tap, means in _mean_activations(network(images), taps).items():
                columns[tap].append(means)
            bar.advance(task, len(gratings))
    split = len(frequency_grid)
    return {
        tap: TuningCurves(all_means[:, :split], all_means[:, split:])
        for tap, all_means in ((tap, np.concatenate(parts).T.copy()) for tap, parts in columns.items())
    }


def _mean_activations(features: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, FloatArray]:
    means = {tap: features[tap].double().mean(dim=(2, 3)).cpu().numpy() for tap in taps}
    for tap, values in means.items():
        if not np.isfinite(values).all():
            raise ValueError(f"network: expected finite activations at tap {tap!r}, got some that are not")
    return means
