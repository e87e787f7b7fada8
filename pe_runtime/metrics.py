"""Perceptual distances between a reference and a distorted image, as modules.

All take RGB images (B, 3, H, W) in [0, 1], of any floating-point dtype and memory format, normalise inside,
and give one distance per pair that depends on nothing but the pair: 0 for identical images, larger is
worse. They have no state but the weights of their backbone (and, for LPIPS, its linear layers).
"""

from __future__ import annotations

import importlib.util
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pe_runtime import ops
from pe_runtime.backbones import Backbone
from pe_runtime.checks import check_choice, check_images, check_same_shape, is_tracing
from pe_runtime.defaults import torch_defaults
from pe_runtime.functional import REDUCTIONS, difference_and_map, lpips_and_map, reduce, widen

Weights = str | os.PathLike[str] | Mapping[str, Tensor]


class Metric(nn.Module, ABC):
    """What every metric and loss of two images shares.

    Args:
        backbone: gives the features; its taps are all used.
        tap_weights: weight >= 0 of each tap's distance; None: `default_tap_weight`.
        reduction: "none" (one distance per pair), or "mean" or "sum" over the batch.
        check_values: refuse images with values that are not in [0, 1], or NaN. This reads the images
            (and waits for the GPU).
        kernels: "auto", "native" or "reference", see `pe_runtime.functional`.

    Raises:
        ValueError: weights for taps that the backbone does not have, negative or all zero; another reduction
            or value of kernels.
    """

    kind: str

    def __init__(
        self,
        backbone: Backbone,
        *,
        tap_weights: Mapping[str, float] | None,
        reduction: str,
        check_values: bool,
        kernels: str,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, Backbone):
            raise TypeError(f"backbone: expected a pe_runtime.Backbone, got {type(backbone).__name__}")
        check_choice(reduction, "reduction", REDUCTIONS)
        check_choice(kernels, "kernels", ops.KERNELS)
        self.backbone = backbone
        self.reduction = reduction
        self.check_values = check_values
        self.kernels = kernels
        self.tap_weights = self._checked_tap_weights(tap_weights)

    def default_tap_weight(self) -> float:
        """Weight of each tap where none are given: the score is then the mean over taps."""
        return 1 / len(self.backbone.taps)

    @abstractmethod
    def tap_map(self, tap: str, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
        """Score (B,) and map (B, 1, h, w) of one tap from its features (B, C, h, w)."""

    def settings(self) -> dict[str, Any]:
        """The constants of the metric, for the metadata of an exported file."""
        return {"tap_weights": dict(self.tap_weights)}

    def score_and_map(self, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of each pair and where it comes from.

        Args:
            reference: (B, 3, H, W) in [0, 1].
            distorted: of the same shape.

        Returns:
            The score, (B,), not reduced, and the map, (B, 1, h, w), larger where the images differ more,
            of the size of the finest tap. Maps of coarser taps are resized to it bilinearly, so that
            the mean of the map equals the score only where there is one tap.

        Raises:
            TypeError: images that are not floating-point tensors.
            ValueError: shapes that differ or do not fit, or values out of range.
        """
        for images, name in ((reference, "reference"), (distorted, "distorted")):
            check_images(images, name, min_size=self.backbone.min_size, values=self.check_values)
        check_same_shape(reference, distorted, "reference", "distorted")
        return self._score_and_map(reference, distorted)

    def forward(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """Distance of each pair, (B,), or reduced. See `score_and_map`."""
        return reduce(self.score_and_map(reference, distorted)[0], self.reduction)

    def compare(
        self, reference_features: Mapping[str, Tensor], distorted_features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Score (B,), not reduced, and map (B, 1, h, w) from the features of both images at every tap."""
        scores, maps = [], []
        for tap, weight in self.tap_weights.items():
            pair = widen(reference_features[tap]), widen(distorted_features[tap])
            score, tap_map = self.tap_map(tap, *pair)
            scores.append(weight * score)
            maps.append(weight * tap_map)
        return sum_all(scores), sum_all(_resized(maps))

    def _score_and_map(self, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
        # Not in one batch: a reference that needs no gradient keeps no activations for one.
        with _full_precision(reference.device.type):
            return self.compare(self.backbone(widen(reference)), self.backbone(widen(distorted)))

    def _checked_tap_weights(self, tap_weights: Mapping[str, float] | None) -> dict[str, float]:
        taps = self.backbone.taps
        if tap_weights is None:
            return dict.fromkeys(taps, self.default_tap_weight())
        if set(tap_weights) != set(taps):
            raise ValueError(
                f"tap_weights: expected one for each of {', '.join(taps)}, got {list(tap_weights)}"
            )
        weights = {tap: float(tap_weights[tap]) for tap in taps}
        if not all(math.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
            raise ValueError("tap_weights: expected finite numbers >= 0, not all of them 0")
        return weights


class FeatureDistance(Metric):
    """Mean squared difference of features: Tariq et al. (ECCV 2020), Eq. 1.

    Of each tap the mean over its selected, weighted channels and all positions; of several taps the
    mean, or the sum weighted by `tap_weights`.

    Args:
        backbone: gives the features, with the channel sets of its taps. None: `gabor`, every tap.
        tap_weights: weight >= 0 of each tap; None: the mean over taps.
        reduction: "none", "mean" or "sum".
        check_values: refuse values outside [0, 1] and NaN; turn off inside a training step.
        kernels: "auto", "native" or "reference", see `pe_runtime.functional`.

    Raises:
        ValueError: see `Metric`.
    """

    kind = "feature_distance"

    def __init__(
        self,
        backbone: Backbone | None = None,
        *,
        tap_weights: Mapping[str, float] | None = None,
        reduction: str = "none",
        check_values: bool = True,
        kernels: str = "auto",
    ) -> None:
        super().__init__(
            Backbone() if backbone is None else backbone,
            tap_weights=tap_weights,
            reduction=reduction,
            check_values=check_values,
            kernels=kernels,
        )

    def tap_map(self, tap: str, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 1 of one tap. See `Metric.tap_map`."""
        return difference_and_map(reference, distorted, kernels=self.kernels)


LPIPS_NETWORKS = {
    "alex": ("alexnet", ("relu1", "relu2", "relu3", "relu4", "relu5")),
    "squeeze": ("squeezenet1_1", ("relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")),
    "vgg": ("vgg16", ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")),
}
"""The networks of the lpips package: backbone and taps."""


class LPIPS(Metric):
    """The LPIPS form: Zhang et al. (CVPR 2018), Eq. 1.

    Features are scaled to unit length across channels, their squared differences weighted per channel
    and summed over channels, averaged over positions and summed over taps.

    Args:
        network: "squeeze", "alex" or "vgg", for the metric of the lpips package (version 0.1), or any
            `Backbone`. Of its channel sets the selection is used; weights in them would be undone in
            part by the scaling to unit length, and belong in `linear`.
        linear: weights >= 0 of the squared differences: "published" (from the installed lpips package;
            only for the three networks), None (1 for every channel), or tap -> one per selected channel.
        weights: of the backbone where `network` is a name: "default", a path or a state dict, see `Backbone`.
        tap_weights: weight >= 0 of each tap; None: 1 each, as published.
        reduction: "none", "mean" or "sum".
        check_values: refuse values outside [0, 1] and NaN; turn off inside a training step.
        kernels: "auto", "native" or "reference", see `pe_runtime.functional`.

    Raises:
        ImportError: published linear weights without the lpips package.
        ValueError: an unknown network, or weights that do not fit.
    """

    kind = "lpips"

    def __init__(
        self,
        network: str | Backbone = "squeeze",
        *,
        linear: str | Mapping[str, Tensor | Sequence[float]] | None = "published",
        weights: Weights = "default",
        tap_weights: Mapping[str, float] | None = None,
        reduction: str = "none",
        check_values: bool = True,
        kernels: str = "auto",
    ) -> None:
        if isinstance(network, str):
            check_choice(network, "network", tuple(LPIPS_NETWORKS))
            name, taps = LPIPS_NETWORKS[network]
            backbone = Backbone(name, taps, weights)
        else:
            backbone = network
        super().__init__(
            backbone,
            tap_weights=tap_weights,
            reduction=reduction,
            check_values=check_values,
            kernels=kernels,
        )
        if isinstance(linear, str):
            check_choice(linear, "linear", ("published",))
            if not isinstance(network, str):
                raise ValueError(
                    f"linear: expected a network among {', '.join(LPIPS_NETWORKS)} with 'published'"
                )
            linear = _published_linear_weights(network, backbone)
        self._register_linear(linear)

    def default_tap_weight(self) -> float:
        """1: LPIPS is a sum over layers."""
        return 1.0

    def tap_map(self, tap: str, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
        """The LPIPS form of one tap. See `Metric.tap_map`."""
        linear = getattr(self, f"linear_{tap}", None)
        return lpips_and_map(reference, distorted, linear=linear, kernels=self.kernels)

    def settings(self) -> dict[str, Any]:
        """See `Metric.settings`."""
        weighted = [tap for tap in self.tap_weights if getattr(self, f"linear_{tap}", None) is not None]
        return {**super().settings(), "linear": weighted}

    def _register_linear(self, linear: Mapping[str, Tensor | Sequence[float]] | None) -> None:
        if linear is None:
            return
        if set(linear) != set(self.backbone.taps):
            raise ValueError(f"linear: expected weights for each of {', '.join(self.backbone.taps)}")
        for tap, values in linear.items():
            device = values.device if isinstance(values, Tensor) else "cpu"
            factors = torch.as_tensor(values, dtype=torch.float32, device=device).detach().clone()
            channels = self.backbone.out_channels[tap]
            if factors.shape != (channels,) or not bool((factors.isfinite() & (factors >= 0)).all()):
                raise ValueError(f"linear: expected {channels} finite numbers >= 0 for tap {tap!r}")
            self.register_buffer(f"linear_{tap}", factors)


def _published_linear_weights(network: str, backbone: Backbone) -> dict[str, Tensor | Sequence[float]]:
    """The `lin` layers that the lpips package ships, read from its file without importing it."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        raise ImportError(
            "linear: the published weights are those of the lpips package; install pe_runtime[lpips]"
        )
    path = Path(spec.origin).parent / "weights" / "v0.1" / f"{network}.pth"
    with torch_defaults():
        state = torch.load(path, map_location="cpu", weights_only=True)
    return {tap: state[f"lin{index}.model.1.weight"].flatten() for index, tap in enumerate(backbone.taps)}


def _resized(maps: list[Tensor]) -> list[Tensor]:
    if len(maps) == 1:
        return maps
    size = maps[0].shape[2:]
    return [maps[0], *(F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps[1:])]


def sum_all(tensors: list[Tensor]) -> Tensor:
    """Sum of tensors of one shape."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _full_precision(device_type: str) -> AbstractContextManager[Any]:
    # Exporters see no autocast, and would record the context for nothing.
    if is_tracing() or not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
