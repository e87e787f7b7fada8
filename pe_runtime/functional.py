"""Losses and distances of feature maps, as functions.

Feature maps are (B, C, H, W), NCHW or channels-last in memory, in any floating-point dtype. Half precision
is computed in float32: rounded to bf16 or TF32, near-identical features give wrong losses without any NaN
to show it. `channels` selects some of the C channels, `weights` multiplies the selected features.
NaN in the features propagates to the result of its sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pe_runtime import reference as definitions
from pe_runtime.checks import check_choice, is_tracing
from pe_runtime.reference import ContextualSettings

PARITY = {
    "mechrez-tensorflow": ContextualSettings(center="batch", eps=2e-5),
    "pytorch-port": ContextualSettings(center="batch", eps=1e-5, eps_log=1e-5),
}
"""Settings that give the numbers of the reference implementations.

"mechrez-tensorflow": the authors' TensorFlow code (contextualLoss, CSFlow.CX_loss). It halves the cosine
distance before adding eps = 1e-5 to the minimum, which is eps = 2e-5 here; its L2 distance is not halved,
so there eps = 1e-5. It samples at most 65 x 65 positions at random, which is not repeated here: the
numbers agree for maps up to that size.

"pytorch-port": the widely copied PyTorch code (contextual_loss_pytorch), cosine distance. It adds 1e-5
inside the logarithm, so identical images score -1e-5. Its "l1" and "l2" distances are not those
distances (it takes the absolute value of a sum, and adds squared norms along the wrong axes) and are refused.

Both centre over the whole batch, so the loss of a pair depends on the other pairs of its batch.
"""


def contextual_loss(
    source: Tensor,
    target: Tensor,
    channels: Sequence[int] | None = None,
    weights: Tensor | Sequence[float] | None = None,
    bandwidth: float = 0.5,
    *,
    distance: str = "cosine",
    center: str = "sample",
    spatial_weight: float = 0.0,
    symmetric: bool = False,
    form: str = "log",
    parity: str | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Contextual loss between two feature maps (Mechrez et al., ECCV 2018; Eq. 9 of Tariq et al., 2020).

    Every target position looks for the source position that is most similar to it, in proportion to how
    similar that one is to all target positions. The loss lies in [0, log Ny] (`form="log"`) or [0, 1)
    (`"one_minus"`), Ny being the number of target positions. Identical maps give 0 where all their
    features differ; positions that share one feature share its similarity, so a map with flat regions
    has a loss above 0 to itself, log Ny if it is constant.

    Args:
        source: features of the image being judged or trained, (B, C, Hx, Wx).
        target: features of the reference, (B, C, Hy, Wy); its size may differ from the source's.
        channels: which channels; None: all.
        weights: factor >= 0 of each selected channel, applied before everything else; None: 1.
        bandwidth: h > 0. Small values are selective, large ones blur.
        distance: "cosine", "l2" (squared Euclidean) or "l1".
        center: what is subtracted before the cosine: the mean target feature of each "sample", that of
            the "batch" (makes samples depend on each other), or "none".
        spatial_weight: weight >= 0 of the squared distance of the two positions in the unit square, added
            to the feature distance (CoBi, Zhang et al., CVPR 2019); 0: none.
        symmetric: take the mean of both directions.
        form: "log": -log CX, or "one_minus": 1 - CX.
        parity: a key of `PARITY`: overrides `center` and `form` to give that implementation's numbers.
        reduction: "mean" or "sum" over samples, or "none".

    Returns:
        The loss, a scalar, or (B,) for reduction "none"; float64 for float64 features, else float32.

    Raises:
        TypeError: features that are not floating-point tensors.
        ValueError: shapes that do not fit, or a setting out of its range.
    """
    settings = contextual_settings(
        bandwidth=bandwidth,
        distance=distance,
        center=center,
        spatial_weight=spatial_weight,
        symmetric=symmetric,
        form=form,
        parity=parity,
    )
    check_choice(reduction, "reduction", REDUCTIONS)
    _check_pair(source, target, "source", "target", same_size=False)
    source, target = (select(features, channels, weights) for features in (source, target))
    loss, _ = definitions.contextual_loss(source, target, settings)
    return reduce(loss, reduction)


def feature_distance(
    reference: Tensor,
    distorted: Tensor,
    channels: Sequence[int] | None = None,
    weights: Tensor | Sequence[float] | None = None,
    *,
    reduction: str = "none",
) -> Tensor:
    """Mean squared difference of two feature maps: Tariq et al. (ECCV 2020), Eq. 1.

    Args:
        reference: features of the reference, (B, C, H, W).
        distorted: features of the distorted image, of the same shape.
        channels: which channels; None: all.
        weights: factor >= 0 of each selected channel's features; None: 1.
        reduction: "none", or "mean" or "sum" over samples.

    Returns:
        (B,), or a scalar; the mean is over the selected channels and all positions.

    Raises:
        TypeError: features that are not floating-point tensors.
        ValueError: shapes that do not fit, or another reduction.
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    _check_pair(reference, distorted, "reference", "distorted", same_size=True)
    first, second = (select(features, channels, weights) for features in (reference, distorted))
    return reduce(definitions.feature_difference(first, second).mean(dim=(1, 2, 3)), reduction)


def lpips_distance(
    reference: Tensor,
    distorted: Tensor,
    channels: Sequence[int] | None = None,
    linear: Tensor | Sequence[float] | None = None,
    *,
    reduction: str = "none",
) -> Tensor:
    """One layer of the LPIPS form: Zhang et al. (CVPR 2018), Eq. 1.

    Args:
        reference: features of the reference, (B, C, H, W).
        distorted: features of the distorted image, of the same shape.
        channels: which channels; features are scaled to unit length across these; None: all.
        linear: weight >= 0 of each selected channel's squared difference (the `lin` layers of the lpips
            package); None: 1.
        reduction: "none", or "mean" or "sum" over samples.

    Returns:
        (B,), or a scalar; the sum over channels is averaged over positions.

    Raises:
        TypeError: features that are not floating-point tensors.
        ValueError: shapes that do not fit, or another reduction.
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    _check_pair(reference, distorted, "reference", "distorted", same_size=True)
    first, second = (select(features, channels, None) for features in (reference, distorted))
    factors = None if linear is None else _factors(linear, "linear", first)
    return reduce(definitions.lpips_difference(first, second, factors).mean(dim=(1, 2, 3)), reduction)


REDUCTIONS = ("none", "mean", "sum")


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Reduce scores (B,) as `reduction` ("none", "mean" or "sum") says."""
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()


def contextual_settings(
    *,
    bandwidth: float = 0.5,
    distance: str = "cosine",
    center: str = "sample",
    spatial_weight: float = 0.0,
    symmetric: bool = False,
    form: str = "log",
    parity: str | None = None,
) -> ContextualSettings:
    """Check the settings of the contextual loss, see `contextual_loss`.

    Raises:
        ValueError: a setting out of its range, or one that a parity mode does not have.
    """
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth: expected a finite number above 0, got {bandwidth}")
    if not (math.isfinite(spatial_weight) and spatial_weight >= 0):
        raise ValueError(f"spatial_weight: expected a finite number >= 0, got {spatial_weight}")
    check_choice(distance, "distance", definitions.DISTANCES)
    check_choice(center, "center", definitions.CENTERS)
    check_choice(form, "form", definitions.FORMS)
    settings = ContextualSettings(
        bandwidth=float(bandwidth),
        distance=distance,
        center=center,
        spatial_weight=float(spatial_weight),
        symmetric=bool(symmetric),
        form=form,
    )
    return settings if parity is None else _with_parity(settings, parity)


def _with_parity(settings: ContextualSettings, parity: str) -> ContextualSettings:
    check_choice(parity, "parity", tuple(PARITY))
    if settings.spatial_weight > 0 or settings.symmetric:
        raise ValueError(f"parity: {parity!r} has neither a spatial term nor a symmetric form")
    known = ("cosine",) if parity == "pytorch-port" else ("cosine", "l2")
    if settings.distance not in known:
        raise ValueError(f"distance: expected {' or '.join(known)} with parity {parity!r}")
    preset = replace(PARITY[parity], bandwidth=settings.bandwidth, distance=settings.distance)
    return replace(preset, eps=1e-5) if settings.distance == "l2" else preset


def select(
    features: Tensor, channels: Sequence[int] | None, weights: Tensor | Sequence[float] | None
) -> Tensor:
    """Selected, weighted features in the dtype that is computed in: float64, or else float32.

    Raises:
        ValueError: a channel that does not exist, or weights of another number.
    """
    features = widen(features)
    if channels is not None:
        available = features.shape[1]
        if len(channels) == 0 or not all(0 <= channel < available for channel in channels):
            raise ValueError(f"channels: expected numbers from 0 to {available - 1}, got {list(channels)}")
        features = features[:, torch.as_tensor(channels, device=features.device)]
    if weights is not None:
        features = features * _factors(weights, "weights", features)[None, :, None, None]
    return features


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float64 if it is in that, else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _factors(values: Tensor | Sequence[float], name: str, features: Tensor) -> Tensor:
    factors = torch.as_tensor(values, device=features.device, dtype=features.dtype)
    if factors.shape != features.shape[1:2]:
        raise ValueError(
            f"{name}: expected one for each of {features.shape[1]} channels, got shape {tuple(factors.shape)}"
        )
    return factors


def _check_pair(first: Tensor, second: Tensor, first_name: str, second_name: str, *, same_size: bool) -> None:
    for features, name in ((first, first_name), (second, second_name)):
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"{name}: expected a floating-point tensor of features, got {kind}")
        if features.ndim != 4 or (not is_tracing() and features.numel() == 0):
            raise ValueError(f"{name}: expected a non-empty shape (B, C, H, W), got {tuple(features.shape)}")
    kept = slice(None) if same_size else slice(0, 2)
    if not is_tracing() and first.shape[kept] != second.shape[kept]:
        what = "the same shape" if same_size else "the same batch size and channels"
        raise ValueError(
            f"{first_name} and {second_name}: expected {what}, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if first.device != second.device:
        raise ValueError(
            f"{first_name} and {second_name}: expected one device, got {first.device} and {second.device}"
        )
