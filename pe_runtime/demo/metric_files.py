"""From PE scores to metric files: the first half of the demonstration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pe_runtime.backbones import Backbone
from pe_runtime.channels import ChannelSet
from pe_runtime.exporters import export
from pe_runtime.losses import ContextualLoss
from pe_runtime.metrics import LPIPS, FeatureDistance, Metric
from pe_runtime.profiles import Profile
from pe_runtime.tuning import score_channels

PERCENT = 25
"""x of H-x. Under grey gratings a third of each tap's channels, those of luminance, have a PE above 0."""

# With the usual bandwidth of 0.5, mild distortions score exactly 0: every position of a mildly blurred
# photograph finds its own counterpart. A gate wants to see them; a large bandwidth does.
CONTEXTUAL_BANDWIDTH = 20.0
_CONTEXTUAL_TAP = "scale3"


def score_gabor(folder: Path) -> dict[str, Path]:
    """Score every channel of the gabor backbone; write a profile and its plots per tap.

    Returns:
        Tap -> profile file.
    """
    paths = {}
    for tap, profile in score_channels(Backbone("gabor")).items():
        paths[tap] = folder / f"{tap}.safetensors"
        profile.save(paths[tap])
        profile.plot(folder / f"{tap}-tuning.png")
        profile.plot_scores(folder / f"{tap}-scores.png")
    return paths


def metric_makers(profiles: dict[str, Profile]) -> dict[str, tuple[str, Callable[[], Metric]]]:
    """The demonstrated metrics: name -> (what it is, maker)."""
    return {
        "distance": ("Eq. 1, all channels of all taps", lambda: FeatureDistance(Backbone("gabor"))),
        f"distance-h{PERCENT}": (
            f"Eq. 1, the channels with the highest {PERCENT} % of PE (H-{PERCENT}), weighted by PE",
            lambda: FeatureDistance(Backbone("gabor", _highest(profiles))),
        ),
        "lpips": ("LPIPS form, all channels", lambda: LPIPS(Backbone("gabor"), linear=None)),
        "contextual": (
            f"contextual loss of {_CONTEXTUAL_TAP}, bandwidth {CONTEXTUAL_BANDWIDTH:g}",
            lambda: ContextualLoss(Backbone("gabor", [_CONTEXTUAL_TAP]), CONTEXTUAL_BANDWIDTH),
        ),
    }


def write_metric(make: Callable[[], Metric], path: Path) -> Path:
    """Export a metric with its map to ONNX; verified against eager in ONNX Runtime."""
    return export(make(), path, map=True)


def _highest(profiles: dict[str, Profile]) -> dict[str, ChannelSet]:
    return {tap: profile.top(PERCENT, weights="pe") for tap, profile in profiles.items()}
